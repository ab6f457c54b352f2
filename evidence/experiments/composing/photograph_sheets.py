"""Draws what a judge of composed texts looks at: a photograph bare and with numbered outlines, and small things close.

Called by `photographs`. A sheet shows no confidence, and not what made a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import binary_dilation

from pseudoris.primitives import rle
from pseudoris.primitives.run_lengths import Box
from pseudoris.schemas.shard import ShardImage

Picture = Image.Image
_SIDE_PX: Final = 1200  # the longer side of a picture on a sheet
_TILE_PX: Final = 380  # the side of an enlargement
_STEP_PX: Final = _TILE_PX + 8
_TILES_A_PAGE: Final = 8
# A mask is shown close if its box has a side shorter than this share of the picture's longer side.
_SMALL: Final = 0.25
# An enlargement has this many times a box's longer side, and at least this many pixels.
_AROUND: Final = 2
_LEAST_PX: Final = 48
_COLOURS: Final = ("#ff2020", "#20e020", "#30a0ff", "#ffe000", "#ff40ff", "#00e8e8", "#ff9000", "#b080ff")


def write_sheets(folder: Path, photos: Path, images: Sequence[ShardImage], asked: Sequence[Mapping[str, Any]]) -> None:
    """Write by photograph `NAME-picture.jpg`, pages `NAME-close-N.jpg`, and `NAME.json` with the texts to judge."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        with Image.open(photos / image.key) as file:
            bare = ImageOps.exif_transpose(file).convert("RGB")
        sheets = {"picture": _beside(bare, _drawn(image, bare, range(len(image.masks)), _SIDE_PX))}
        sheets |= {f"close-{page}": sheet for page, sheet in enumerate(_close(image, bare), 1)}
        stem = Path(image.key).stem
        for name, sheet in sheets.items():
            sheet.save(folder / f"{stem}-{name}.jpg", quality=92)
        rows = sorted((each for each in asked if each["photo"] == image.key), key=lambda each: each["targets"])
        tree = {"sheets": [f"{stem}-{name}.jpg" for name in sheets], "texts": rows}
        (folder / f"{stem}.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _beside(bare: Picture, drawn: Picture) -> Picture:
    """Put the bare picture beside the drawn one; wide pictures stand below each other, so that both stay large."""
    width, height = drawn.size
    x, y = (0, height + 8) if width > height else (width + 8, 0)
    both = Image.new("RGB", (width + x, height + y), "white")
    both.paste(bare.resize(drawn.size, Image.Resampling.LANCZOS), (0, 0))
    both.paste(drawn, (x, y))
    return both


def _drawn(image: ShardImage, bare: Picture, chosen: Sequence[int], side: int, part: Box | None = None) -> Picture:
    """Draw a part of the picture, `side` pixels long, with the outlines and numbers of some masks."""
    x0, y0, x1, y1 = part or (0, 0, *bare.size)
    scale = side / max(x1 - x0, y1 - y0)
    size = (round((x1 - x0) * scale), round((y1 - y0) * scale))
    shown = np.array(bare.crop((x0, y0, x1, y1)).resize(size, Image.Resampling.LANCZOS))
    masks = rle.decode([image.masks[number].rle_counts for number in chosen], (bare.height, bare.width))
    labels = []
    for number, mask in zip(chosen, masks[:, y0:y1, x0:x1], strict=True):
        pixels = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)
        colour = _COLOURS[number % len(_COLOURS)]
        # The outline stands outside of the mask, so that the thing itself stays visible.
        shown[binary_dilation(pixels, iterations=2) & ~pixels] = tuple(bytes.fromhex(colour[1:]))
        rows, columns = np.nonzero(pixels)
        # The number stands above the mask's highest pixels, inside the picture.
        x, y = np.median(columns[rows == rows.min()]), rows.min() - 8
        labels.append((str(number), colour, (np.clip(x, 14, size[0] - 14), np.clip(y, 12, size[1] - 12))))
    drawn = Image.fromarray(shown)
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(20)
    for text, colour, place in labels:
        pen.rectangle(pen.textbbox(place, text, font, anchor="mm", stroke_width=4), fill="black")
        pen.text(place, text, colour, font, anchor="mm")
    return drawn


def _close(image: ShardImage, bare: Picture) -> Iterator[Picture]:
    """Yield pages of small things: each bare, and beside it outlined."""
    boxes = {number: mask.box_xyxy_px for number, mask in enumerate(image.masks)}
    small = [n for n, (x0, y0, x1, y1) in boxes.items() if min(x1 - x0, y1 - y0) < _SMALL * max(bare.size)]
    for first in range(0, len(small), _TILES_A_PAGE):
        numbers = small[first : first + _TILES_A_PAGE]
        page = Image.new("RGB", (4 * _STEP_PX, (len(numbers) + 1) // 2 * _STEP_PX), "white")
        for place, number in enumerate(numbers):
            x, y, frame = place % 2 * 2 * _STEP_PX, place // 2 * _STEP_PX, _frame(boxes[number], bare.size)
            page.paste(_drawn(image, bare, (), _TILE_PX, frame), (x, y))
            page.paste(_drawn(image, bare, (number,), _TILE_PX, frame), (x + _TILE_PX + 4, y))
        yield page


def _frame(box: Box, size: tuple[int, int]) -> Box:
    """Return a square around a box, as far as the picture reaches."""
    x0, y0, x1, y1 = box
    side = max(_LEAST_PX, _AROUND * max(x1 - x0, y1 - y0))
    left, top = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    return max(0, left), max(0, top), min(size[0], left + side), min(size[1], top + side)
