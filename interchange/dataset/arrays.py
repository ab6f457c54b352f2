"""Arrays of samples, and what datasets take from torch, or numpy without it. Called by most modules of this folder.

No other module here imports torch at its top, so that a run can be read, in one process, where it is not installed.
"""

from __future__ import annotations

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
        """In place of torch's base class, of which only its loaders ask something."""

    class IterableDataset(Dataset[T]):
        """Likewise."""

    def get_worker_info() -> None:
        """Return None: without torch there are no workers."""


# These names are imported here only so that other modules can import them from here.
__all__ = ["DataLoader", "Dataset", "IterableDataset", "Tensor", "default_collate", "get_worker_info"]


def as_tensor(array: np.ndarray) -> Tensor:
    """Return the array as a sample has it: as a tensor over the same memory, or as it is."""
    return torch.from_numpy(array) if HAS_TORCH else cast("Tensor", array)


def shared_zeros(shape: tuple[int, ...]) -> Tensor:
    """Return zeros, int64, that the workers of a loader share with its process."""
    numbers = as_tensor(np.zeros(shape, dtype=np.int64))
    if HAS_TORCH:
        numbers.share_memory_()  # type: ignore[no-untyped-call]
    return numbers
