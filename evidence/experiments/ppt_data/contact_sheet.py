"""A contact sheet of pairs with their pseudo-labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pseudoris.files.location import RunLocation
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec

_SIDE, _TEXT_HEIGHT, _GAP, _TITLE_HEIGHT = 208, 34, 8, 22
# Masks are drawn at the size of the tile: the frame of the decoder would be four times as coarse.
_FRAME: Final = LabelFrame(_SIDE, _SIDE)
_REFERENT, _CONTEXT, _POSITIVE, _NEGATIVE = (40, 220, 60), (255, 150, 30), (60, 255, 90), (255, 60, 60)


def draw_sheet(path: Path, rows: Sequence[tuple[str, RunLocation, Sequence[int]]]) -> None:
    """Write a PNG: a row a data set, by its title, its run and the pairs shown.

    Outlines are green for a referent (c = 1) and orange for a context or an undecided pseudo-mask (c = 0); dots are the
    first pseudo-mask's points, green inside and red outside.
    """
    columns = max(len(each) for _, _, each in rows)
    row_height = _TITLE_HEIGHT + _SIDE + _TEXT_HEIGHT + _GAP
    sheet = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, len(rows) * row_height + _GAP), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, (title, location, chosen) in enumerate(rows):
        top = _GAP + number * row_height
        draw.text((_GAP, top), title, fill=(20, 20, 20), font=ImageFont.load_default(size=14))
        pairs = PairDataset(location, PairSpec(num_points=8, frame=_FRAME))
        for column, at in enumerate(chosen):
            left = _GAP + column * (_SIDE + _GAP)
            sheet.paste(_tile(pairs, at), (left, top + _TITLE_HEIGHT))
            lines = textwrap.wrap(pairs[at].text, 32)[:2]
            draw.text((left, top + _TITLE_HEIGHT + _SIDE + 2), "\n".join(lines), fill=(20, 20, 20), font=font)
    # Of 128 colours: noise makes true ones four times the size.
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _tile(pairs: PairDataset, at: int) -> Image.Image:
    pair, pixels = pairs[at], pairs.image(at)
    if pixels is None:
        raise ValueError(f"the image of pair {at} cannot be used")
    if pair.is_flipped:
        pixels = pixels.flip(-1)
    scale = _SIDE / max(pixels.shape[1:])
    size = round(pixels.shape[2] * scale), round(pixels.shape[1] * scale)
    tile = np.full((_SIDE, _SIDE, 3), 250, np.uint8)
    tile[: size[1], : size[0]] = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size))
    for mask, confidence in zip(pair.labels.masks, pair.labels.confidences.tolist(), strict=True):
        tile[_outline(mask >= 0.5)] = _REFERENT if confidence else _CONTEXT
    picture = Image.fromarray(tile)
    draw = ImageDraw.Draw(picture)
    longest = np.array(size)
    for xy, label in zip(pair.labels.points_xy[0].numpy() * longest, pair.labels.labels[0].tolist(), strict=True):
        x, y = float(xy[0]), float(xy[1])
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_POSITIVE if label else _NEGATIVE, outline=(0, 0, 0))
    return picture


def _outline(mask: torch.Tensor) -> np.ndarray:
    """The pixels within two of the mask's edge, (H, W) bool."""
    plane = mask[None, None].float()
    grown = torch.nn.functional.max_pool2d(plane, 3, 1, 1)
    shrunk = -torch.nn.functional.max_pool2d(-plane, 3, 1, 1)
    return np.asarray((grown - shrunk)[0, 0].numpy() > 0)
