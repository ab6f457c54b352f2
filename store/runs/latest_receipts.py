"""The latest receipts of a run as a sequence that reads them on demand: 12 bytes per shard instead of 6 KB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from pseudoris.schemas.run_records import Receipt
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import list_receipts, read_receipts


class LatestReceipts(Sequence[Receipt]):
    """The receipts of the highest generation of each committed shard, ordered by shard, as one listing found them.

    Each pass reads them again, a few at a time, in large runs from the manifest. All passes see the same commits, even
    if more shards are committed meanwhile. Reading a single receipt costs one request.

    Reading raises:
        ConfigError: A receipt cannot be used, or was deleted since the listing.
        TransientError: Storage failed.
    """

    def __init__(
        self,
        location: RunLocation,
        shards: npt.NDArray[np.int64],
        generations: npt.NDArray[np.int32],
        *,
        is_cached: bool = True,
    ) -> None:
        """Use `listed` instead. Takes shards (N,) int64, ascending, and their generations (N,) int32."""
        self.shards = shards
        self.generations = generations
        self._location = location
        self._is_cached = is_cached

    @classmethod
    def listed(cls, location: RunLocation, *, is_cached: bool = True) -> Self:
        """Return the latest receipts at present; one listing, no receipt is read.

        Args:
            location: The run's folder.
            is_cached: Whether to read them from the manifest if it has them, as `cached_receipts` does.
        """
        highest = list_receipts(location)
        shards = np.fromiter(highest.keys(), np.int64, len(highest))
        return cls(location, shards, np.fromiter(highest.values(), np.int32, len(highest)), is_cached=is_cached)

    def __len__(self) -> int:
        """Return how many shards are committed."""
        return len(self.shards)

    def __iter__(self) -> Iterator[Receipt]:
        """Yield them in order; only a few are held at once."""
        if self._is_cached:
            return cached_receipts(self._location, commits=self._commits())
        return read_receipts(self._location, self._commits())

    @overload
    def __getitem__(self, index: int) -> Receipt: ...

    @overload
    def __getitem__(self, index: slice) -> LatestReceipts: ...

    def __getitem__(self, index: int | slice) -> Receipt | LatestReceipts:
        """Return the receipt at an index, or a slice. The index is not the shard's number (see `of_shard`).

        Raises:
            IndexError: The index is out of range.
            ValueError: The step of the slice is negative.
        """
        if isinstance(index, slice):
            if index.step is not None and index.step < 0:
                raise ValueError(
                    f"the step of a slice must be positive, got {index.step}: receipts are read "
                    "in the order of their shards"
                )
            shards, generations = self.shards[index], self.generations[index]
            return LatestReceipts(self._location, shards, generations, is_cached=self._is_cached)
        (receipt,) = read_receipts(self._location, [(int(self.shards[index]), int(self.generations[index]))])
        return receipt

    def of_shard(self, shard: int) -> Receipt:
        """Return the receipt of a shard.

        Raises:
            KeyError: It was not committed when the receipts were listed.
        """
        place = int(np.searchsorted(self.shards, shard))
        if place == len(self) or self.shards[place] != shard:
            raise KeyError(shard)
        return self[place]

    def _commits(self) -> Iterator[tuple[int, int]]:
        return ((int(shard), int(generation)) for shard, generation in zip(self.shards, self.generations, strict=True))
