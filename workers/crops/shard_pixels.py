"""Pixels of a shard's images, decoded once for all stages of a process, and on a GPU ahead by threads.

The stages of `workers` ask within `prefetched_pixels`. `tolerant_stages` opens `held_pixels` around several stages, and
they share what fits below the bounds; the rest is decoded again for each. No bit may depend on bounds or threads.
Importing this module loads no torch, because a driver does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.faults.freed_memory import OWNERS

if TYPE_CHECKING:
    import torch

Decode = Callable[[ShardImage], NDArray[np.uint8]]

# Bytes of pixels that stay for later stages, and that threads decode ahead: 85 and 28 photographs of 12 megapixels (a
# shard of 256 MiB has about 64). On a CPU less stays and nothing is decoded ahead: models need its memory and cores.
HELD_BYTES: Final = 3 * 2**30
AHEAD_BYTES: Final = 2**30
HELD_BYTES_ON_CPU: Final = 64 * 2**20
# This many threads decode ahead, each ten images of 12 megapixels per second. More threads than cores are slower.
_NUM_THREADS: Final = min(4, os.cpu_count() or 1)


class _ShardPixels:
    """What is decoded of one shard, by image id."""

    def __init__(self, pool: ThreadPoolExecutor, *, is_shared: bool) -> None:
        self._pool, self._is_shared = pool, is_shared
        self._held: dict[str, NDArray[np.uint8]] = {}
        self._ahead: dict[str, tuple[int, Future[NDArray[np.uint8]]]] = {}
        OWNERS.add(self)

    def __call__(self, image: ShardImage, following: Iterator[ShardImage], *, is_on_cpu: bool) -> NDArray[np.uint8]:
        """Return an image's pixels; start with those of the `following` images."""
        pixels = self._held.get(image.image_id)
        _, begun = self._ahead.pop(image.image_id, (0, None))
        taken = sum(size for size, _ in self._ahead.values())
        for later in () if is_on_cpu else following:
            if later.image_id in self._held or later.image_id in self._ahead:
                continue
            taken += (size := 3 * (later.height or 1) * (later.width or 1))
            if taken > AHEAD_BYTES:
                break
            self._ahead[later.image_id] = size, self._pool.submit(decode_proven, later.data, later.levels)
        if pixels is None:
            pixels = decode_proven(image.data, image.levels) if begun is None else begun.result()
            most = HELD_BYTES_ON_CPU if is_on_cpu else HELD_BYTES
            if self._is_shared and pixels.nbytes + sum(each.nbytes for each in self._held.values()) <= most:
                self._held[image.image_id] = pixels
        return pixels

    def free_memory(self) -> None:
        """Forget what is decoded; a stage that asks for it decodes it again."""
        self._held.clear()
        self._ahead.clear()


# This list has at most one entry: the pixels of the shard in progress.
_SHARED: Final[list[_ShardPixels]] = []


@contextmanager
def held_pixels() -> Iterator[None]:
    """Let the stages that run inside the block, on one shard, share what they decode."""
    with _opened(is_shared=True) as pixels:
        _SHARED[:] = [pixels]
        try:
            yield
        finally:
            _SHARED.clear()


@contextmanager
def prefetched_pixels(images: Sequence[ShardImage], device: torch.device) -> Iterator[Decode]:
    """Yield a function that returns the pixels of one of `images`, and starts decoding the next ones in threads.

    Quarantined images are not decoded ahead. Pixels are (H, W, 3) uint8 RGB; other stages may get the same array, so
    nobody writes into it. On a CPU nothing is decoded before it is requested, because it would take cores from the
    models. If an image fails to decode, the function raises when that image is requested, like `decode_proven`; a
    second request decodes it again.
    """
    images = [image for image in images if not image.failure]
    place_of = {image.image_id: place for place, image in enumerate(images)}
    with nullcontext(_SHARED[0]) if _SHARED else _opened(is_shared=False) as pixels:

        def decode(image: ShardImage) -> NDArray[np.uint8]:
            following = islice(images, place_of.get(image.image_id, len(images)) + 1, None)
            return pixels(image, following, is_on_cpu=device.type == "cpu")

        yield decode


@contextmanager
def _opened(*, is_shared: bool) -> Iterator[_ShardPixels]:
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="decode") as pool:
        pixels = _ShardPixels(pool, is_shared=is_shared)
        try:
            yield pixels
        finally:
            pixels.free_memory()
            pool.shutdown(cancel_futures=True)
