"""The order of the masks in a stream of images. An image is kept only as long as its masks need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pseudoris.workers.counter_rng import draw_below


class Item(Protocol):
    """An image in the buffer."""

    @property
    def num_masks(self) -> int:
        """At least 1."""

    @property
    def size_bytes(self) -> int:
        """Its size in bytes when decoded."""


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Buffer:
    """The size of the buffer from which masks are drawn: within both bounds, but at least one image.

    Attributes:
        images: The most images at a time.
        size_bytes: The most bytes of decoded pixels.
    """

    images: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DrawnMask(Generic[ItemT]):
    """A mask of an image, by its position in the image; `is_last` if the image has no other left."""

    item: ItemT
    mask: int
    is_last: bool


def in_order(items: Iterable[ItemT]) -> Iterator[DrawnMask[ItemT]]:
    """Yield the masks image by image."""
    for item in items:
        for mask in range(item.num_masks):
            yield DrawnMask(item, mask, mask + 1 == item.num_masks)


def interleaved(items: Iterable[ItemT], buffer: Buffer, key: int) -> Iterator[DrawnMask[ItemT]]:
    """Yield every mask once, each drawn among all masks left of the images in the buffer.

    An image enters when the last mask of another one was drawn. So each image is decoded once, at its first mask,
    memory is bounded, and decoding is spread evenly over a long stream.

    Args:
        items: In the order in which they enter.
        buffer: Its bounds.
        key: Decides the draws: equal keys and items give an equal order.
    """
    source = iter(items)
    ahead = next(source, None)
    pool: list[tuple[int, int]] = []
    held: dict[int, ItemT] = {}
    left: dict[int, int] = {}
    entered = drawn = size_bytes = 0
    while ahead is not None or pool:
        while ahead is not None and (not held or _fits(len(held), size_bytes + ahead.size_bytes, buffer)):
            held[entered], left[entered] = ahead, ahead.num_masks
            pool += [(entered, mask) for mask in range(ahead.num_masks)]
            size_bytes += ahead.size_bytes
            entered += 1
            ahead = next(source, None)
        at = draw_below(key, drawn, len(pool))
        pool[at], pool[-1] = pool[-1], pool[at]
        number, mask = pool.pop()
        drawn += 1
        left[number] -= 1
        item = held[number]
        if not left[number]:
            size_bytes -= item.size_bytes
            del held[number], left[number]
        yield DrawnMask(item, mask, number not in held)


def _fits(num_held: int, size_bytes: int, buffer: Buffer) -> bool:
    return num_held < buffer.images and size_bytes <= buffer.size_bytes
