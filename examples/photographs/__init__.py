"""Speed, memory and accuracy on photographs, for whoever has photographs and weights or a GPU.

`__main__` measures, `results` writes the page; a rater named `simulated…` must not be shown as a person.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

if missing := [name for name in ("psutil", "pyarrow", "pydantic", "typer") if find_spec(name) is None]:
    sys.exit(
        f"error: the Python {sys.executable} lacks {', '.join(missing)}: in the clone run `make install`, then "
        "`.venv/bin/python -m examples.photographs`"
    )
