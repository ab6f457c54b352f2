"""The split of a run over loader workers and ranks, into shards or equal spans of samples. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# How ranks with different numbers of samples are treated.
Uneven = Literal["keep", "drop", "pad"]


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the disjoint sequences that an epoch is read in: a loader worker of a rank.

    Attributes:
        rank: From 0.
        world_size: Ranks.
        worker: Number of the worker within its rank, from 0.
        num_workers: Workers of each rank, at least 1: a loader without workers counts as one.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Some samples of a shard, in the order of its tables.

    Attributes:
        row: Row of the snapshot.
        start: First sample.
        stop: One after the last; None for the shard's end.
    """

    row: int
    start: int = 0
    stop: int | None = None


def whole_shards(order: Sequence[int] | NDArray[np.int64], stream: Stream) -> list[ShardSlice]:
    """Return every n-th shard: without overlap or loss over all streams, in numbers that may differ."""
    of_rank = order[stream.rank :: stream.world_size]
    return [ShardSlice(int(row)) for row in of_rank[stream.worker :: stream.num_workers]]


def samples_per_rank(total: int, world_size: int, uneven: Literal["drop", "pad"]) -> int:
    """Return how many samples each rank gets: the floor of its share, or the ceiling."""
    return total // world_size if uneven == "drop" else -(-total // world_size)


def worker_ends(share: int, num_workers: int) -> list[int]:
    """Return where the span of each worker of a rank ends, of the `share` samples of the rank."""
    return [(worker + 1) * share // num_workers for worker in range(num_workers)]


def equal_slices(
    order: NDArray[np.int64], counts: NDArray[np.int64], stream: Stream, uneven: Literal["drop", "pad"]
) -> list[ShardSlice]:
    """Return a span of the epoch's samples, equally long for every rank.

    The samples form one sequence, shard after shard in `order`. Each rank takes an equal span of it, and each of its
    workers an equal part of that span, to within one sample. At the end `drop` leaves out fewer samples than there are
    ranks; `pad` repeats as few from the beginning. A shard at the border of two spans is read by both.

    Args:
        order: Rows of the snapshot, (S,).
        counts: Samples by row of the snapshot, (S,).
        stream: The stream whose span is returned.
        uneven: `drop` or `pad`.
    """
    ends = np.cumsum(counts[order])
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        return []
    share = samples_per_rank(total, stream.world_size, uneven)
    bounds = [0, *worker_ends(share, stream.num_workers)]
    start, stop = (stream.rank * share + bounds[stream.worker + at] for at in (0, 1))
    slices: list[ShardSlice] = []
    while start < stop:
        begin = start % total
        end = min(begin + stop - start, total)
        slices += _slices_between(order, ends, begin, end)
        start += end - begin
    return slices


def _slices_between(order: NDArray[np.int64], ends: NDArray[np.int64], start: int, stop: int) -> Iterator[ShardSlice]:
    """Yield the slices of the samples `start` ... `stop`-1 of the row."""
    at = int(np.searchsorted(ends, start, side="right"))
    while start < stop:
        first = int(ends[at - 1]) if at else 0
        end = min(int(ends[at]), stop)
        if end > start:
            yield ShardSlice(int(order[at]), start - first, end - first)
        start, at = end, at + 1
