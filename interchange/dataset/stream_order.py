"""Orders a stream's samples: split over ranks, read-ahead, shuffle. For stream datasets; users depend on `StreamOrder`.

Seed, epoch, ranks, workers and settings decide the order, never timing. An image is decoded once for its masks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pseudoris.interchange.dataset.shard_index import ShardIndex
from pseudoris.interchange.dataset.shard_reader import DatasetRun, ShardContent
from pseudoris.interchange.dataset.torch_names import Tensor
from pseudoris.primitives.counter_rng import draw_below, key_of, permutation
from pseudoris.primitives.errors import ConfigError, ImageError

logger = logging.getLogger(__name__)

Uneven = Literal["keep", "drop", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder:
    """The order of samples, and their split over ranks.

    Attributes:
        is_shuffled: Shards in random order, images of a shard in random order, masks drawn from a buffer of images;
            all by (seed, epoch). False gives the order of the plan.
        buffer_images: Images whose masks are mixed, for each worker. More images mix better (a batch of B has about
            B²/2n pairs of one image), and take more memory.
        buffer_bytes: Bytes of decoded pixels for each worker; the buffer holds fewer images if they are large.
        uneven: How ranks with different numbers of samples are treated. `keep` reads each sample once, and ranks end at
            different times. `drop` and `pad` give each rank the same number, by dropping or repeating fewer samples
            than there are ranks. For that, all shards are counted when the dataset is made.
        rank: By default torch.distributed's when the dataset is made; so is `world_size`.
    """

    is_shuffled: bool = True
    buffer_images: int = 128
    buffer_bytes: int = 256 * 2**20
    uneven: Uneven = "keep"
    rank: int | None = None
    world_size: int | None = None

    def __post_init__(self) -> None:
        if self.buffer_images < 1 or self.buffer_bytes < 1:
            raise ConfigError(
                f"buffer_images is {self.buffer_images} and buffer_bytes is {self.buffer_bytes}. Give 1 or more for "
                "both."
            )
        if self.uneven not in ("keep", "drop", "pad"):
            raise ConfigError(f"uneven is {self.uneven!r}: give 'keep', 'drop' or 'pad'")


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the disjoint sequences that an epoch is read in: a loader worker of a rank, both numbered from 0.

    A loader without workers counts as one worker.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Samples `start` to below `stop` (None: the end) of the shard in a row of the snapshot, in its tables' order."""

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

    `order` has the rows of the snapshot, (S,), and `counts` the samples by row.
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
        # `at` is the shard that holds the next sample, and `first` is the number of that shard's first sample.
        begin = start % total
        at = int(np.searchsorted(ends, begin, side="right"))
        first = int(ends[at - 1]) if at else 0
        end = min(int(ends[at]), begin + stop - start)
        slices.append(ShardSlice(int(order[at]), begin - first, end - first))
        start += end - begin
    return slices


@dataclass(slots=True)
class StreamedShard:
    """A shard whose content is read on first use, or was read ahead."""

    run: DatasetRun
    row: int
    index: ShardIndex
    read: ShardContent | None = None

    def content(self) -> ShardContent:
        """Return what samples are made of."""
        if self.read is None:
            self.read = self.run.content(self.row)
        return self.read


@dataclass(slots=True)
class StreamedImage:
    """An image, by its position in the shard's index, and those of its consecutive masks that belong to the stream."""

    shard: StreamedShard
    at: int
    first_mask: int
    num_masks: int
    _pixels: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the decoded image; 0 if no image is requested."""
        sizes = self.shard.index.image_sizes_px
        return 0 if sizes is None else 3 * int(sizes[self.at].prod())

    def pixels(self, *, is_last: bool) -> Tensor | None:
        """Return the image, (3, H, W) uint8, owned by the caller; None if it is not requested or cannot be used.

        Decoded once: every mask but the last gets a copy, so that a transform may write into it.
        """
        content, images = self.shard.content(), self.shard.run.images
        if images is None or content.images is None:
            return None
        if self._pixels is None:
            try:
                self._pixels = images.decode(content.images, self.at)
            except ImageError as error:
                explained = images.explained(content.images.keys[self.at], error)
                if self.shard.run.spec.on_bad_image == "raise":
                    raise explained from error
                if content.images.outcomes[self.at] is not error:
                    logger.warning("image left out, with its masks: %s", explained)
                # The error is stored, so that the image is not decoded again for its other masks.
                content.images.outcomes[self.at] = error
                return None
            # The encoded bytes are dropped, because a few waiting masks would keep all bytes of a shard in memory.
            content.images.outcomes[self.at] = b""
        pixels = self._pixels
        if is_last:
            self._pixels = None
            return pixels
        return deepcopy(pixels)


class ShardIterator:
    """Yields the images of slices of shards. Memory is bounded by two shards and the images still in use.

    Attributes:
        is_skipping: Set while images are skipped unread, up to a position: only ids are read ahead then.
    """

    def __init__(self, run: DatasetRun, slices: Sequence[ShardSlice], key: int | None) -> None:
        """Wire it; `key` decides the order of the images of each shard, None keeps that of the plan."""
        self.is_skipping = False
        self._run = run
        self._slices = slices
        self._key = key

    def __iter__(self) -> Iterator[StreamedImage]:
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            ahead: Future[StreamedShard] | None = None
            for at, part in enumerate(self._slices):
                shard = self._read(part.row) if ahead is None else ahead.result()
                if at + 1 < len(self._slices):
                    ahead = pool.submit(self._read, self._slices[at + 1].row)
                firsts = shard.index.first_masks
                stop = shard.index.num_masks if part.stop is None else part.stop
                starts, stops = np.maximum(firsts[:-1], part.start), np.minimum(firsts[1:], stop)
                inside = np.flatnonzero(starts < stops)
                if self._key is not None:
                    inside = inside[permutation(key_of(self._key, shard.index.parts.shard), len(inside))]
                for image in inside.tolist():
                    yield StreamedImage(shard, image, int(starts[image]), int(stops[image] - starts[image]))

    def _read(self, row: int) -> StreamedShard:
        if self.is_skipping:
            return StreamedShard(self._run, row, self._run.index(row))
        content = self._run.content(row)
        return StreamedShard(self._run, row, content.index, content)


# An image, a mask of it by its position in the image, and whether the image has no other left.
_DrawnMask = tuple[StreamedImage, int, bool]


def in_order(items: Iterable[StreamedImage]) -> Iterator[_DrawnMask]:
    """Yield the masks image by image."""
    for item in items:
        for mask in range(item.num_masks):
            yield item, mask, mask + 1 == item.num_masks


def interleaved(items: Iterable[StreamedImage], order: StreamOrder, key: int) -> Iterator[_DrawnMask]:
    """Yield every mask once, each drawn among all masks left of the images in the buffer of the order: at least one.

    An image enters when the last mask of another one was drawn. So each image is decoded once, at its first mask,
    memory is bounded, and decoding is spread evenly over a long stream. Equal keys and items give an equal order.
    """
    source = iter(items)
    ahead = next(source, None)
    pool: list[tuple[int, StreamedImage, int]] = []
    left: dict[int, int] = {}
    entered = drawn = size_bytes = 0
    while ahead is not None or pool:
        while ahead is not None and (
            not left or (len(left) < order.buffer_images and size_bytes + ahead.size_bytes <= order.buffer_bytes)
        ):
            left[entered] = ahead.num_masks
            pool += [(entered, ahead, mask) for mask in range(ahead.num_masks)]
            size_bytes += ahead.size_bytes
            entered += 1
            ahead = next(source, None)
        at = draw_below(key, drawn, len(pool))
        pool[at], pool[-1] = pool[-1], pool[at]
        number, item, mask = pool.pop()
        drawn += 1
        left[number] -= 1
        if not left[number]:
            size_bytes -= item.size_bytes
            del left[number]
        yield item, mask, number not in left
