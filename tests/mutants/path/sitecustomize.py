"""On the path of every process of a mutant's tests: the package is imported from the copy, never from the checkout."""

import os
import sys
from pathlib import Path

_COPY = os.environ["PSEUDORIS_MUTANTS_COPY"]

for _finder in sys.meta_path:
    _mapping = getattr(sys.modules.get(getattr(_finder, "__module__", "")), "MAPPING", {})
    if "pseudoris" in _mapping:
        _root = str(Path(_mapping["pseudoris"]).parent)
        _mapping.update({name: _COPY + path.removeprefix(_root) for name, path in _mapping.items()})
