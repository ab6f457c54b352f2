"""A REFER dataset's `refs(<splitBy>).p`, read without running what a pickle may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigError
from store.plain_pickle import load_plain
from store.storage_errors import storage_errors

_KEYS: Final = ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences")


def read_refs(path: Path) -> list[dict[str, Any]]:
    """Return the references of a refs file, all in memory, as it holds them; each has the keys that REFER asks for.

    Files of Python 2 read too. A pickle can name any function to be called as it loads; one that names a function or
    a class, a numpy number among them, is refused.

    Raises:
        ConfigError: There is no such file, or it is no list of references.
        TransientError: Storage failed.
    """
    try:
        with storage_errors("read", str(path)):
            data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}: name the folder of a REFER dataset and who split it") from None
    refs = load_plain(data, str(path))
    if not isinstance(refs, list):
        raise ConfigError(f"{path} holds a {type(refs).__name__}, not REFER's list of references")
    for number, ref in enumerate(refs):
        missing = [key for key in _KEYS if key not in ref] if isinstance(ref, dict) else list(_KEYS)
        if missing:
            raise ConfigError(f"{path}: reference number {number} has no {missing[0]!r}, which REFER's format asks for")
    return refs
