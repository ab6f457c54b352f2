"""While a GPU computes on one image, the next one of the shard is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.shard import ShardImage
from workers.images.decoding import decode_proven

Decode = Callable[[ShardImage], NDArray[np.uint8]]


def decode_image(image: ShardImage) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) uint8 RGB of an image that reading has proved; raises as `decode_proven` does."""
    return decode_proven(image.data)


@contextmanager
def decoding_ahead(images: Sequence[ShardImage], device: torch.device) -> Iterator[Decode]:
    """Yield a function from one of `images` to its pixels that begins with the one after it, in a thread.

    On a CPU nothing is done ahead: decoding would take the cores that compute. What fails to decode raises where its
    pixels are asked for, as `decode_image` does, and is decoded anew when they are asked for again.
    """
    if device.type == "cpu":
        yield decode_image
        return
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        yield _Ahead(images, pool)


class _Ahead:
    def __init__(self, images: Sequence[ShardImage], pool: ThreadPoolExecutor) -> None:
        self._next = {image.position: after for image, after in pairwise(images)}
        self._pool = pool
        self._begun: dict[int, Future[NDArray[np.uint8]]] = {}

    def __call__(self, image: ShardImage) -> NDArray[np.uint8]:
        begun = self._begun.pop(image.position, None)
        pixels = decode_image(image) if begun is None else begun.result()
        after = self._next.get(image.position)
        if after is not None:
            self._begun = {after.position: self._pool.submit(decode_image, after)}
        return pixels
