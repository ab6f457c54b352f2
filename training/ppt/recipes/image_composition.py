"""Several object-centric images in one: mosaics, whose objects have places, and fusions, whose objects have relations.

Section 3.2, augmented data for more complex RIS learning. Pure functions of pixels, masks and a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pseudoris.training.ppt.recipes.recipe_config import ComposeConfig
from pseudoris.training.ppt.recipes.recipe_texts import position_texts, relation_texts

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# The least share of its cell that a mosaic's tile fills. The remaining space allows any position in the cell.
_MIN_FILL: Final = 0.85
# What a window of a piece leaves around its object, as a share of the object's box.
_MARGIN: Final = 0.1
_PLACES_TRIED: Final = 16
# Centres must be so far apart, as a share of the image's side, that a relation is true to the eye.
_MIN_GAP: Final = 0.15


@dataclass(frozen=True, slots=True)
class Piece:
    """An object-centric image: pixels (H, W, 3) uint8, its object's mask (H, W) bool, its class name."""

    pixels: Pixels
    mask: Mask
    name: str

    def mirrored(self) -> Piece:
        """Return it flipped left to right."""
        return Piece(self.pixels[:, ::-1], self.mask[:, ::-1], self.name)


@dataclass(frozen=True, slots=True)
class ComposedImage:
    """A composed square image.

    Attributes:
        pixels: (S, S, 3) uint8.
        masks: What is visible of each piece's object, (S, S) bool, each with at least one pixel.
        texts: The texts for each of them as a referent.
        kind: `position` of a mosaic, `relation` of a fusion.
    """

    pixels: Pixels
    masks: tuple[Mask, ...]
    texts: tuple[tuple[str, ...], ...]
    kind: str


def mosaic(
    pieces: Sequence[Piece], layout: tuple[int, int], side: int, rng: np.random.Generator
) -> ComposedImage | None:
    """Return the pieces scaled and pasted into the cells of a grid; None where one of them lost its object.

    Args:
        pieces: Row by row, as many as the layout has cells.
        layout: Rows and columns.
        side: S, in pixels.
        rng: Draws sizes and places in the cells.
    """
    canvas = _canvas(pieces, side)
    masks: list[Mask] = []
    texts: list[tuple[str, ...]] = []
    rows, columns = layout
    for number, piece in enumerate(pieces):
        row, column = divmod(number, columns)
        cell = side // columns, side // rows
        window = _window(piece, cell, rng)
        fit = min(cell[0] / window.mask.shape[1], cell[1] / window.mask.shape[0])
        scaled = _scaled(window, max(window.mask.shape) * fit * rng.uniform(_MIN_FILL, 1.0))
        height, width = scaled.mask.shape
        x = column * cell[0] + int(rng.integers(cell[0] - width + 1))
        y = row * cell[1] + int(rng.integers(cell[1] - height + 1))
        canvas[y : y + height, x : x + width] = scaled.pixels
        masks.append(_placed(scaled.mask, (x, y), side))
        texts.append(position_texts(piece.name, layout, (row, column)))
    if not all(mask.any() for mask in masks):
        return None
    return ComposedImage(canvas, tuple(masks), tuple(texts), "position")


def fusion(base: Piece, embedded: Piece, config: ComposeConfig, rng: np.random.Generator) -> ComposedImage | None:
    """Return one image embedded in another, each described by its relation to the other; None where none is clear.

    Args:
        base: Fills the image.
        embedded: Is scaled and pasted into it: its object alone, or the whole of it.
        config: How large, and how much of the base's object must stay visible.
        rng: Draws the size, and the places tried.
    """
    side = config.side_px
    canvas, under = _canvas([base], side), _scaled(base, side)
    corner = ((side - under.mask.shape[1]) // 2, (side - under.mask.shape[0]) // 2)
    canvas[corner[1] : corner[1] + under.mask.shape[0], corner[0] : corner[0] + under.mask.shape[1]] = under.pixels
    below = _placed(under.mask, corner, side)
    piece = _cut_out(embedded) if config.embedded == "object" else embedded
    over = _scaled(piece, side * rng.uniform(*config.embedded_side))
    cover = over.mask if config.embedded == "object" else np.ones_like(over.mask)
    height, width = over.mask.shape
    if not below.any() or not over.mask.any():
        return None
    for _ in range(_PLACES_TRIED):
        x, y = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        visible = below & ~_placed(cover, (x, y), side)
        above = _placed(over.mask, (x, y), side)
        relation = relative_side(above, visible) if visible.any() else None
        if relation is None or visible.sum() < config.min_visible * below.sum():
            continue
        window = canvas[y : y + height, x : x + width]
        window[cover] = over.pixels[cover]
        texts = (
            relation_texts(base.name, _OPPOSITE[relation], embedded.name),
            relation_texts(embedded.name, relation, base.name),
        )
        return ComposedImage(canvas, (visible, above), texts, "relation")
    return None


_OPPOSITE: Final = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def relative_side(target: Mask, anchor: Mask) -> str | None:
    """Return on which side of the anchor the target is, by the centres of their boxes; None where it is not clear.

    Clear is: apart by more than a share of the image's side along one axis, and by less than half of that along the
    other.
    """
    x, y = np.subtract(_box_centre(target), _box_centre(anchor)) / np.array([target.shape[1], target.shape[0]])
    along, across = (x, y) if abs(x) > abs(y) else (y, x)
    if abs(along) < _MIN_GAP or abs(across) > abs(along) / 2:
        return None
    if along == x:
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def _box_centre(mask: Mask) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return (float(xs.min() + xs.max() + 1) / 2, float(ys.min() + ys.max() + 1) / 2)


def _canvas(pieces: Sequence[Piece], side: int) -> Pixels:
    """A square in the mean colour of the pieces, where none of them lies."""
    mean = np.mean([piece.pixels.mean(axis=(0, 1)) for piece in pieces], axis=0)
    return np.broadcast_to(np.rint(mean).astype(np.uint8), (side, side, 3)).copy()


def _window(piece: Piece, cell: tuple[int, int], rng: np.random.Generator) -> Piece:
    """The largest part of the piece that has the cell's shape (width, height) and holds the whole object.

    Where the object itself is of another shape the window follows the object: it may then fill its cell less.
    """
    if not piece.mask.any():
        return piece
    height, width = piece.mask.shape
    ys, xs = np.nonzero(piece.mask)
    share = min(width / cell[0], height / cell[1])
    spans = []
    for low, high, full, wanted in (
        (int(xs.min()), int(xs.max()) + 1, width, cell[0] * share),
        (int(ys.min()), int(ys.max()) + 1, height, cell[1] * share),
    ):
        margin = _MARGIN * (high - low) / 2
        low, high = max(0, int(low - margin)), min(full, int(high + margin + 1))
        length = min(full, max(high - low, int(wanted)))
        start = int(rng.integers(max(0, high - length), min(low, full - length) + 1))
        spans.append(slice(start, start + length))
    return Piece(piece.pixels[spans[1], spans[0]], piece.mask[spans[1], spans[0]], piece.name)


def _scaled(piece: Piece, long_side: float) -> Piece:
    """The piece with its longer side in whole pixels, at least one of either."""
    height, width = piece.mask.shape
    scale = long_side / max(height, width)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    pixels = Image.fromarray(np.ascontiguousarray(piece.pixels)).resize(size, Image.Resampling.BILINEAR)
    shares = Image.fromarray(piece.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return Piece(np.asarray(pixels), np.asarray(shares) >= 128, piece.name)


def _cut_out(piece: Piece) -> Piece:
    """The box of the object."""
    ys, xs = np.nonzero(piece.mask)
    window = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    return Piece(piece.pixels[window], piece.mask[window], piece.name)


def _placed(mask: Mask, corner_xy: tuple[int, int], side: int) -> Mask:
    full = np.zeros((side, side), np.bool_)
    full[corner_xy[1] : corner_xy[1] + mask.shape[0], corner_xy[0] : corner_xy[0] + mask.shape[1]] = mask
    return full
