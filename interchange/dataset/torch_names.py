"""What datasets need of torch: arrays, loaders, the process group. For most modules here, and for `training/ppt`.

Without torch, numpy and empty classes take its place, so that one process can read a run. So no other module here may
import torch at its top. No process may wait for another one, because some ranks may make no dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

import numpy as np

HAS_TORCH: Final = find_spec("torch") is not None

if TYPE_CHECKING or HAS_TORCH:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info
else:
    T = TypeVar("T")
    Tensor, DataLoader, default_collate = np.ndarray, None, None

    class Dataset(Generic[T]):
        """Takes the place of torch's base class, which only torch's loaders use."""

    class IterableDataset(Dataset[T]):
        """Takes the place of torch's base class."""

    def get_worker_info() -> None:
        """Return None: without torch there are no workers."""


# These names are imported here only so that other modules can import them from here.
__all__ = ["DataLoader", "Dataset", "IterableDataset", "Tensor", "default_collate", "get_worker_info"]


def as_tensor(array: np.ndarray) -> Tensor:
    """Return the array as a tensor over the same memory; without torch, the array."""
    return torch.from_numpy(array) if HAS_TORCH else cast("Tensor", array)


def shared_zeros(shape: tuple[int, ...]) -> Tensor:
    """Return zeros, int64, that the workers of a loader share with its process."""
    numbers = as_tensor(np.zeros(shape, dtype=np.int64))
    if HAS_TORCH:
        numbers.share_memory_()  # type: ignore[no-untyped-call]
    return numbers


# The counter of skipped masks has a slot for this many workers. More workers share slots, and may lose counts.
_SLOTS: Final = 1_024


def distributed_rank() -> tuple[int, int]:
    """Return rank and world size of the process group; (0, 1) if no group is initialised."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _has_group() else (0, 1)


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
    return HAS_TORCH and torch.distributed.is_available() and torch.distributed.is_initialized()


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
