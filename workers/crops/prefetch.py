"""Decodes the next image of a shard in a thread while the GPU computes on the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.shard import ShardImage

Decode = Callable[[ShardImage], NDArray[np.uint8]]


def decode_image(image: ShardImage) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) uint8 RGB of an image that the prover has decoded; raises like `decode_proven`."""
    return decode_proven(image.data)


@contextmanager
def prefetched_pixels(images: Sequence[ShardImage], device: torch.device) -> Iterator[Decode]:
    """Yield a function that returns the pixels of one of `images` and starts decoding the next one in a thread.

    On a CPU nothing is prefetched, because decoding would take cores from the models. If an image fails to decode, the
    function raises when that image is requested, like `decode_image`. A second request decodes it again.
    """
    if device.type == "cpu":
        yield decode_image
        return
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        yield _Prefetcher(images, pool)


class _Prefetcher:
    def __init__(self, images: Sequence[ShardImage], pool: ThreadPoolExecutor) -> None:
        self._next = {image.position: after for image, after in pairwise(images)}
        self._pool = pool
        self._pending: dict[int, Future[NDArray[np.uint8]]] = {}

    def __call__(self, image: ShardImage) -> NDArray[np.uint8]:
        pending = self._pending.pop(image.position, None)
        pixels = decode_image(image) if pending is None else pending.result()
        after = self._next.get(image.position)
        if after is not None:
            self._pending = {after.position: self._pool.submit(decode_image, after)}
        return pixels
