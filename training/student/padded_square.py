"""Images of any shape in the square that a tower takes, and masks back out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import resize


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image of H × W lies in the square: scaled to fit, in the middle, as CRIS does.

    Attributes:
        size: (H, W) of the image in pixels.
        inner: (h, w) that it is scaled to.
        top: Rows above it.
        left: Columns left of it.
        side: Of the square.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int
    side: int

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Placement:
        """Return where an image of a size lies."""
        scale = side / max(size)
        inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return cls(size, inner, (side - inner[0]) // 2, (side - inner[1]) // 2, side)

    def image(self, image: torch.Tensor, fill: tuple[float, ...]) -> torch.Tensor:
        """Return an image (3, H, W) uint8 in its square (3, S, S) uint8; `fill` in [0, 1] is what lies around it."""
        colour = torch.tensor([round(255 * each) for each in fill], dtype=torch.uint8)
        square = colour[:, None, None].repeat(1, self.side, self.side)
        scaled = image if self.inner == self.size else resize(image, list(self.inner), antialias=True)
        square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]] = scaled
        return square

    def mask(self, mask: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return which share of each pixel of a smaller square a mask (H, W) bool covers, (m, m) float32."""
        share = mask[None].float()
        scaled = share if self.inner == self.size else resize(share, list(self.inner), antialias=True)
        square = torch.zeros(1, self.side, self.side)
        square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]] = scaled
        return F.adaptive_avg_pool2d(square, mask_size)[0]

    def back(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits (T, m, m) on the pixels of the image, (T, H, W)."""
        square = _scaled(logits, (self.side, self.side))
        inner = square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]]
        return inner if self.inner == self.size else _scaled(inner, self.size)


def _scaled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
