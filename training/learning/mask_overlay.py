"""Draws a mask on its image, tinted and outlined, with the expression below. For `cli`, `training`, examples.

An outline lies outside of its mask, so that it hides no pixel of it.
"""

from __future__ import annotations

import textwrap

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

_TINT, _EDGE, _PAPER, _INK = (255, 60, 60), (255, 255, 255), (250, 250, 248), (20, 20, 20)
_TRUTH = (30, 90, 255)
_TINT_SHARE = 0.45
# A picture with a smaller side is enlarged by a whole number, so that the text below it is legible.
_MIN_SIDE_PX = 480
_FONT_PX, _MARGIN_PX = 18, 10


def draw_overlay(image: torch.Tensor, mask: torch.Tensor, text: str, truth: torch.Tensor | None = None) -> Image.Image:
    """Return the picture of `draw_masks` with `text` below, wrapped."""
    picture, font = draw_masks(image, mask, truth), ImageFont.load_default(_FONT_PX)
    # The number of letters in a line is estimated: a letter is about half as wide as it is high.
    lines = textwrap.wrap(text, max(8, int((picture.width - 2 * _MARGIN_PX) / (0.55 * _FONT_PX)))) or [""]
    height = len(lines) * (_FONT_PX + 6) + 2 * _MARGIN_PX
    page = Image.new("RGB", (picture.width, picture.height + height), _PAPER)
    page.paste(picture, (0, 0))
    ImageDraw.Draw(page).multiline_text(
        (_MARGIN_PX, picture.height + _MARGIN_PX), "\n".join(lines), fill=_INK, font=font, spacing=6
    )
    return page


def draw_masks(image: torch.Tensor, mask: torch.Tensor, truth: torch.Tensor | None = None) -> Image.Image:
    """Return a picture of an image (3, H, W) uint8 RGB with a mask (H, W) bool tinted; `truth` is outlined blue."""
    factor = enlargement((image.shape[1], image.shape[2]))
    pixels = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2).float()
    inside = mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    tint, edge = (torch.tensor(colour, dtype=torch.float32)[:, None, None] for colour in (_TINT, _EDGE))
    tinted = torch.where(inside, pixels * (1 - _TINT_SHARE) + tint * _TINT_SHARE, pixels)
    shown = torch.where(outer_outline(inside, width=max(1, factor // 2)), edge, tinted)
    if truth is not None:
        wanted = truth.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        blue = torch.tensor(_TRUTH, dtype=torch.float32)[:, None, None]
        shown = torch.where(outer_outline(wanted, width=max(2, factor // 2)), blue, shown)
    return Image.fromarray(np.ascontiguousarray(shown.round().to(torch.uint8).permute(1, 2, 0).numpy()))


def enlargement(size: tuple[int, int]) -> int:
    """Return how many pixels of a picture a pixel of its image of `size` (H, W) is across."""
    return max(1, -(-_MIN_SIDE_PX // max(size)))


def outer_outline(inside: torch.Tensor, *, width: int) -> torch.Tensor:
    """Return the pixels just outside of a mask, (H, W) bool."""
    size = 2 * width + 1
    grown = F.max_pool2d(inside[None, None].float(), size, stride=1, padding=width)[0, 0] > 0
    return grown & ~inside
