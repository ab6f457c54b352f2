"""Images of a stream's shards, shard by shard; the next shard is read while this one is used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pseudoris.schemas.errors import ImageError
from pseudoris.training.dataset.opened_run import OpenedRun
from pseudoris.training.dataset.shard_reader import ShardContent, ShardIndex
from pseudoris.training.dataset.stream_split import ShardSlice
from pseudoris.workers.counter_rng import key_of, permutation

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StreamedShard:
    """A shard whose content is read on first use, or was read ahead."""

    run: OpenedRun
    row: int
    index: ShardIndex
    read: ShardContent | None = None

    def content(self) -> ShardContent:
        """Return what samples are made of; raises as `ShardReader.content` does."""
        if self.read is None:
            self.read = self.run.reader.content(self.row)
        return self.read


@dataclass(slots=True)
class StreamedImage:
    """An image, and those of its masks that belong to the stream.

    Attributes:
        shard: Its shard.
        at: Its position in the shard's index.
        first_mask: Position in the index of its first mask in the stream.
        num_masks: How many consecutive masks.
    """

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

        Raises:
            ConfigError: It cannot be used, and the spec does not skip such.
        """
        content, images = self.shard.content(), self.shard.run.images
        if images is None or content.images is None:
            return None
        if self._pixels is None:
            try:
                self._pixels = images.decode(content.images, self.at)
            except ImageError as error:
                self._refuse(error)
                return None
            # The encoded bytes are not needed any more, and masks of a few images keep a shard's content alive.
            content.images.outcomes[self.at] = b""
        pixels = self._pixels
        if is_last:
            self._pixels = None
            return pixels
        return pixels.clone()

    def _refuse(self, error: ImageError) -> None:
        content, images = self.shard.content(), self.shard.run.images
        if images is None or content.images is None:
            return
        explained = images.explained(content.images.keys[self.at], error)
        if self.shard.run.spec.on_bad_image == "raise":
            raise explained from error
        if content.images.outcomes[self.at] is not error:
            logger.warning("image left out, with its masks: %s", explained)
        # Not decoded again for its other masks.
        content.images.outcomes[self.at] = error


class ShardIterator:
    """Yields the images of slices of shards. Memory is bounded by two shards and the images still in use.

    Attributes:
        is_skipping: Set while images are skipped unread, up to a position: only ids are read ahead then.
    """

    def __init__(self, run: OpenedRun, slices: Sequence[ShardSlice], key: int | None) -> None:
        """Wire it; `key` decides the order of the images of each shard, None keeps that of the plan."""
        self.is_skipping = False
        self._run = run
        self._slices = slices
        self._key = key

    def __iter__(self) -> Iterator[StreamedImage]:
        """Yield the images; raises as `ShardReader.content` does."""
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            ahead: Future[StreamedShard] | None = None
            for at, part in enumerate(self._slices):
                shard = self._read(part.row) if ahead is None else ahead.result()
                if at + 1 < len(self._slices):
                    ahead = pool.submit(self._read, self._slices[at + 1].row)
                yield from self._images(shard, part)

    def _read(self, row: int) -> StreamedShard:
        if self.is_skipping:
            return StreamedShard(self._run, row, self._run.reader.index(row))
        content = self._run.reader.content(row)
        return StreamedShard(self._run, row, content.index, content)

    def _images(self, shard: StreamedShard, part: ShardSlice) -> Iterator[StreamedImage]:
        firsts = shard.index.first_masks
        stop = shard.index.num_masks if part.stop is None else part.stop
        starts, stops = np.maximum(firsts[:-1], part.start), np.minimum(firsts[1:], stop)
        inside = np.flatnonzero(starts < stops)
        if self._key is not None:
            inside = inside[permutation(key_of(self._key, shard.index.parts.shard), len(inside))]
        for at in inside.tolist():
            yield StreamedImage(shard, at, int(starts[at]), int(stops[at] - starts[at]))
