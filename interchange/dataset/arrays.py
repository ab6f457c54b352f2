"""Arrays of samples, and the names that datasets need of torch. Called by most modules of this folder.

Without torch, numpy and empty classes take its place, so that one process can read a run. So no other module here may
import torch at its top.
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
