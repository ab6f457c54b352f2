"""The crops of one image as pieces of work: what each reads and writes, and batches of them below a bound in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from schemas.shard import Box
from workers.images.strips import STRIP_PX

Span = tuple[int, int]

# Output rows that are summed together, for the same reason as a strip's columns.
BAND_ROWS: Final = 16

_FLOAT_PIXEL_BYTES: Final = 12
# A row's number and weight, with what is computed on the way to them.
_TAP_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Cut:
    """A crop, or some of its outputs.

    Attributes:
        crop: Number of the crop among all of the image's.
        mask: Number of its mask.
        is_masked: Whether what lies outside the mask is filled.
        box: (x0, y0, x1, y1) in upright image pixels, x1 and y1 exclusive, not empty.
        rows: First and end of the output rows that this piece computes.
        columns: The same of columns.
    """

    crop: int
    mask: int
    is_masked: bool
    box: Box
    rows: Span
    columns: Span

    @property
    def side(self) -> int:
        """Side of the padded square in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


def batches(cuts: list[Cut], *, size: int, max_bytes: int) -> Iterator[list[Cut]]:
    """Yield the cuts in order, in batches that take at most about `max_bytes` each; large ones come in pieces.

    A piece of one output pixel is never divided: of a huge image it may take more.
    """
    batch: list[Cut] = []
    taken = 0
    for cut in chain.from_iterable(_pieces(cut, size, max_bytes) for cut in cuts):
        needed = size_bytes(cut, size=size)
        if batch and taken + needed > max_bytes:
            yield batch
            batch, taken = [], 0
        batch.append(cut)
        taken += needed
    if batch:
        yield batch


def size_bytes(cut: Cut, *, size: int) -> int:
    """Return about how many bytes the cut takes while it is computed, without its result."""
    height, width = _span_px(cut, cut.rows, size, axis=1), _span_px(cut, cut.columns, size, axis=0)
    num_rows = min(cut.rows[1] - cut.rows[0], height * size // cut.side + 2) + BAND_ROWS
    num_columns = cut.columns[1] - cut.columns[0]
    # The pixels once and once more masked, then rows of outputs, in two orders.
    pixels = 2 * (height + num_rows) * (width + STRIP_PX)
    taps = (2 * height + num_rows) * (width // STRIP_PX + 1) + (2 * width + num_columns) * (num_rows // BAND_ROWS)
    return _FLOAT_PIXEL_BYTES * pixels + _TAP_BYTES * taps


def _pieces(cut: Cut, size: int, max_bytes: int) -> Iterator[Cut]:
    num_rows, num_columns = cut.rows[1] - cut.rows[0], cut.columns[1] - cut.columns[0]
    if size_bytes(cut, size=size) <= max_bytes or num_rows == num_columns == 1:
        yield cut
        return
    if num_columns == 1 or (num_rows > 1 and cut.box[3] - cut.box[1] > cut.box[2] - cut.box[0]):
        halves = [replace(cut, rows=half) for half in _halves(cut.rows)]
    else:
        halves = [replace(cut, columns=half) for half in _halves(cut.columns)]
    for half in halves:
        yield from _pieces(half, size, max_bytes)


def _halves(span: Span) -> tuple[Span, Span]:
    middle = (span[0] + span[1]) // 2
    return (span[0], middle), (middle, span[1])


def _span_px(cut: Cut, outputs: Span, size: int, *, axis: int) -> int:
    """Return at most how many pixels the outputs read along an axis, 0 for x."""
    scale = cut.side / size
    reads = int((outputs[1] - outputs[0]) * scale + 2 * max(scale, 1.0)) + 1
    return min(cut.box[axis + 2] - cut.box[axis], reads)
