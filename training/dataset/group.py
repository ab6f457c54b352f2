"""What the processes of a torch.distributed group know of each other, and agree on without waiting for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.utils.data import get_worker_info

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]


def distributed_rank() -> tuple[int, int]:
    """Return rank and world size of the process group, (0, 1) where none is initialised."""
    if _has_group():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def agreed(key: str, propose: Callable[[], str]) -> str:
    """Return what the processes of the group agree on under a key: what the first one that asks proposes.

    Not by a collective call, which hangs where only some ranks make a dataset (evaluation on rank 0, the first stage of
    a pipeline), and asks a GPU for a few bytes under NCCL. Without a group, and in a loader worker, whose connection
    is its parent's, `propose` decides.
    """
    if not _has_group() or get_worker_info() is not None:
        return propose()
    store, name = _store(), f"pseudoris/{key}"
    if not store.check([name]):
        # Where another process was quicker, its value stays and comes back.
        store.compare_set(name, "", propose())
    value: bytes = store.get(name)
    return value.decode()


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _store() -> Store:
    # The rendezvous that every group began with; torch has no public name for it, and not every build has the module.
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
