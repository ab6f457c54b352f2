"""Numbers that a dataset shares with its copies in loader workers."""

from __future__ import annotations

from typing import Final

import torch
from torch.utils.data import get_worker_info

# Slots of the counter; workers beyond share a slot, and may then lose a count to each other.
_SLOTS: Final = 1_024


class SharedNumbers:
    """The epoch, and how many masks were skipped, in shared memory: also workers that live on see and tell them."""

    def __init__(self) -> None:
        """Begin at epoch 0 with nothing skipped."""
        self._epoch = _shared_zeros(())
        self._skipped = _shared_zeros((_SLOTS,))

    @property
    def epoch(self) -> int:
        """The epoch that is set."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    @property
    def num_skipped(self) -> int:
        """Masks that all workers have skipped."""
        return int(self._skipped.sum())

    def count_skipped(self) -> None:
        """Add one."""
        info = get_worker_info()
        self._skipped[(info.id if info else 0) % _SLOTS] += 1


def _shared_zeros(shape: tuple[int, ...]) -> torch.Tensor:
    numbers = torch.zeros(shape, dtype=torch.int64)
    numbers.share_memory_()  # type: ignore[no-untyped-call]
    return numbers
