"""The standing receipts of a run as a sequence that holds none of them: 12 bytes a shard instead of 6 KB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from schemas.run import Receipt
from store.location import RunLocation
from store.manifest import cached_receipts
from store.receipts import list_receipts, read_receipts


class StandingReceipts(Sequence[Receipt]):
    """The receipts of the highest generation of each committed shard, ordered by shard, as one listing found them.

    Each pass reads them again, in large runs from the manifest, a few at a time; all passes are over the same
    commits, whatever is committed meanwhile. A look at one costs a request.

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
        """Wire it; see `listed`. Shards (N,) int64, ascending, and their generations (N,) int32."""
        self.shards = shards
        self.generations = generations
        self._location = location
        self._is_cached = is_cached

    @classmethod
    def listed(cls, location: RunLocation, *, is_cached: bool = True) -> Self:
        """Return those that stand now; one listing, no receipt is read.

        Args:
            location: Where the run lives.
            is_cached: Whether the manifest serves where it has them, as for `cached_receipts`.
        """
        highest = list_receipts(location)
        shards = np.fromiter(highest.keys(), np.int64, len(highest))
        return cls(location, shards, np.fromiter(highest.values(), np.int32, len(highest)), is_cached=is_cached)

    def __len__(self) -> int:
        """Return how many shards are committed."""
        return len(self.shards)

    def __iter__(self) -> Iterator[Receipt]:
        """Yield them in order, a few held at once."""
        if self._is_cached:
            return cached_receipts(self._location, commits=self._commits())
        return read_receipts(self._location, self._commits())

    @overload
    def __getitem__(self, index: int) -> Receipt: ...

    @overload
    def __getitem__(self, index: slice) -> StandingReceipts: ...

    def __getitem__(self, index: int | slice) -> Receipt | StandingReceipts:
        """Return the receipt at a place, which is not the shard's number (see `of_shard`), or a part of the sequence.

        Raises:
            IndexError: There is no such place.
            ValueError: A part is asked for backwards.
        """
        if isinstance(index, slice):
            if index.step is not None and index.step < 0:
                raise ValueError(f"receipts are read in the order of their shards, got a step of {index.step}")
            shards, generations = self.shards[index], self.generations[index]
            return StandingReceipts(self._location, shards, generations, is_cached=self._is_cached)
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
