"""Frees what a process keeps from shard to shard when memory runs out. Called by `tolerant_stages` and `quarantine`.

Owners of caches (`cached_towers`, `static_engine`, `shard_pixels`) join `OWNERS`; what they free must change no
result. Imports no torch.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Final, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """An object that keeps memory it can do without."""

    def free_memory(self) -> None:
        """Free it."""


OWNERS: Final[WeakSet[Owner]] = WeakSet()


def free_memory() -> None:
    """Free the memory of all owners, and torch's caches."""
    for owner in tuple(OWNERS):
        owner.free_memory()
    gc.collect()
    # If torch was never imported, there are no caches to free.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        # On a broken device this fails too, and would hide the error that broke it.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
