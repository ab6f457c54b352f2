"""Values shared in a torch.distributed group and with loader workers. Called by this folder and `training/ppt`.

No process may wait for another one, because some ranks may make no dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pseudoris.interchange.dataset.arrays import HAS_TORCH, get_worker_info, shared_zeros

# The counter of skipped masks has a slot for this many workers. More workers share slots, and may lose counts.
_SLOTS: Final = 1_024


def distributed_rank() -> tuple[int, int]:
    """Return rank and world size of the process group; (0, 1) if no group is initialised."""
    if _has_group():
        import torch

        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def agreed(key: str, propose: Callable[[], str]) -> str:
    """Return the group's common value for a key: the value that the first process to ask proposes.

    A collective call would hang if only some ranks make a dataset (evaluation on rank 0, the first stage of a
    pipeline). Without a group, and in a loader worker, whose parent has the connection, `propose` decides.
    """
    if not _has_group() or get_worker_info() is not None:
        return propose()
    # The import is here, because some builds of torch lack this private name. torch has no public one.
    from torch.distributed.distributed_c10d import _get_default_store

    store, name = _get_default_store(), f"pseudoris/{key}"
    if not store.check([name]):
        # If another process was faster, its value stays, and `get` returns it.
        store.compare_set(name, "", propose())
    value: bytes = store.get(name)
    return value.decode()


def _has_group() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


class SharedNumbers:
    """A dataset's epoch and number of skipped masks, in shared memory: persistent workers see and update them too."""

    def __init__(self) -> None:
        """Begin at epoch 0 with nothing skipped."""
        self._epoch = shared_zeros(())
        self._skipped = shared_zeros((_SLOTS,))

    @property
    def epoch(self) -> int:
        """The epoch that is read next."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: its draws, and of a stream its shuffle. Call it on every rank before each iteration."""
        self._epoch[...] = epoch

    @property
    def num_skipped(self) -> int:
        """How often all workers left a mask out, or took another, because its image could not be used."""
        return int(self._skipped.sum())

    def _count_skipped(self) -> None:
        info = get_worker_info()
        self._skipped[(info.id if info else 0) % _SLOTS] += 1
