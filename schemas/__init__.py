"""What all rooms speak in: configuration, table schemas, run records. Imports `primitives` alone, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import schemas` would find this folder and load a second copy of every module.
    raise ImportError("'schemas' is not a package of its own: import pseudoris.schemas", name=__name__)


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's `__getattr__` (PEP 562): a name is imported at its first use, as engines load torch.

    Args:
        package: Its `__name__`.
        homes: For each name, the module of the package that defines it.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
