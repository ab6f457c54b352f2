"""An answer of PPT shown on its image: the mask, the points that prompted it, the confidence below."""

from __future__ import annotations

from typing import Final

import torch
from PIL import Image, ImageDraw

from pseudoris.training.learning.mask_overlay import draw_overlay, enlargement
from pseudoris.training.ppt.ppt_learner import PointAnswer

_POSITIVE, _NEGATIVE, _RIM = (50, 230, 80), (255, 60, 60), (20, 20, 20)
_RADIUS_PX: Final = 7


def draw_answer(image: torch.Tensor, answer: PointAnswer, text: str) -> Image.Image:
    """Return a picture: the mask tinted, positive points as green discs with a plus, negative ones red with a minus.

    Args:
        image: (3, H, W) uint8, RGB.
        answer: To one expression.
        text: The expression; the confidence is written behind it.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    confidence = float(answer.confidences[0])
    picture = draw_overlay(image, answer.logits[0] > 0, f"{text} \N{MIDDLE DOT} confidence {confidence:.2f}")
    scale = torch.tensor([width, height]) * enlargement((height, width))
    draw = ImageDraw.Draw(picture)
    for (x, y), is_positive in zip((answer.points_xy[0] * scale).tolist(), answer.is_positive[0].tolist(), strict=True):
        _draw_point(draw, x, y, is_positive=is_positive)
    return picture


def _draw_point(draw: ImageDraw.ImageDraw, x: float, y: float, *, is_positive: bool) -> None:
    colour = _POSITIVE if is_positive else _NEGATIVE
    draw.ellipse((x - _RADIUS_PX, y - _RADIUS_PX, x + _RADIUS_PX, y + _RADIUS_PX), fill=colour, outline=_RIM, width=2)
    # Not by colour alone.
    half = _RADIUS_PX - 4
    draw.line((x - half, y, x + half, y), fill=_RIM, width=2)
    if is_positive:
        draw.line((x, y - half, x, y + half), fill=_RIM, width=2)
