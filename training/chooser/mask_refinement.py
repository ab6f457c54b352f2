"""Redraws a mask's outline: a small U-Net over the image around it. Called by most modules of this folder.

SAM's masks are coarser than the image, which limits a chooser among them. The network sees a mask and the pixels around
it, and draws only a change: outside of its view a mask stays as it is, and an untrained network changes nothing. It
needs targets with true outlines, as a renderer's: from SAM's own masks it learns to change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from pseudoris.primitives import rle
from pseudoris.training.chooser.chooser_config import RefinementConfig

# A view has four channels: RGB and the mask.
_NUM_CHANNELS = 4
# A mask without a change: this logit inside, and its negative outside. Small, because the network has to outvote a hard
# edge: chosen on development scenes, where 2 gave half as much.
_TRUST = 0.5
_NUM_GROUPS = 4
NO_OUTLINES = torch.zeros(0, _NUM_CHANNELS + 1, 8, 8, dtype=torch.uint8)


def view_boxes(counts: Sequence[str], size: tuple[int, int], context: float) -> torch.Tensor:
    """Return the square that a view shows of each mask, (N, 4) float32: x0, y0, x1, y1 in pixels.

    Masks are COCO compressed RLE of an image of `size` (H, W). A side is `context` longer sides of the mask's box.
    """
    boxes = torch.tensor(rle.boxes(counts, size), dtype=torch.float32).reshape(-1, 4)
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = sides.amax(1, keepdim=True) * context / 2
    return torch.cat([centre - half, centre + half], 1)


def views_of(
    image: torch.Tensor, counts: Sequence[str], size: tuple[int, int], config: RefinementConfig
) -> torch.Tensor:
    """Return what is seen of each mask of an image (3, H, W) uint8: (N, 4, S, S) uint8, RGB and the mask's share."""
    if not counts:
        return torch.zeros(0, _NUM_CHANNELS, config.size, config.size, dtype=torch.uint8)
    boxes = view_boxes(counts, size, config.context)
    pixels = _viewed(image[None].float(), boxes, config.size).round().byte()
    # Masks are decoded one by one, because all masks of a large image would take gigabytes as floats.
    masks = (torch.from_numpy(rle.decode([each], size)[0]) for each in counts)
    covered = [mask_share(mask, box, config.size) for mask, box in zip(masks, boxes, strict=True)]
    return torch.cat([pixels, torch.stack(covered)[:, None]], 1)


def mask_share(mask: torch.Tensor, box: torch.Tensor, size: int) -> torch.Tensor:
    """Return the share of each pixel of a view (S, S) that a mask (H, W) bool covers, uint8 of 255."""
    return _viewed(255 * mask[None, None].float(), box[None], size)[0, 0].round().byte()


def _viewed(values: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Return squares (N, C, S, S) of an image (1, C, H, W); 0 from a pixel outside of it on."""
    seen: torch.Tensor = roi_align(values, [boxes], (size, size), aligned=True)
    return seen


def redrawn(change: torch.Tensor, box: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a mask (H, W) bool with the change (S, S) of its logits in its view; it never becomes empty."""
    (x0, y0, x1, y1), (height, width) = box.tolist(), mask.shape
    x = 2 * (torch.arange(width) + 0.5 - x0) / (x1 - x0) - 1
    y = 2 * (torch.arange(height) + 0.5 - y0) / (y1 - y0) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    changed = F.grid_sample(change[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
    is_inside = (y.abs() <= 1)[:, None] & (x.abs() <= 1)[None]
    drawn = torch.where(is_inside, changed + _trusted(mask.float()) > 0, mask)
    return drawn if drawn.any() else mask


def _trusted(shares: torch.Tensor) -> torch.Tensor:
    return _TRUST * (2 * shares - 1)


class MaskRefiner(nn.Module):
    """A U-Net of three halvings, from views of masks to the change of their logits."""

    def __init__(self, width: int) -> None:
        """Draw fresh weights from torch's generator; `width`, a multiple of 4, counts the channels at full size."""
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        # The first layer has one more channel: the distance to the mean colour under the mask.
        given = [_NUM_CHANNELS + 1, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(into, out, stride=1 if at == 0 else 2), _convolution(out, out))
            for at, (into, out) in enumerate(zip(given, widths, strict=True))
        )
        self.up = nn.ModuleList(
            _convolution(below + beside, beside) for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(width, 1, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Return changes (R, S, S) of views (R, 4, S, S) uint8."""
        shares = views.to(self.out.weight.dtype) / 255
        colours, mask = 2 * shares[:, :3] - 1, shares[:, 3:]
        mean = (colours * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        seen = torch.cat([colours, 2 * mask - 1, (colours - mean).norm(dim=1, keepdim=True)], 1)
        levels = []
        for down in self.down:
            seen = down(seen)
            levels.append(seen)
        for up, beside in zip(self.up, levels[-2::-1], strict=True):
            seen = up(torch.cat([F.interpolate(seen, size=beside.shape[2:], mode="nearest"), beside], 1))
        change: torch.Tensor = self.out(seen)
        return change[:, 0]


def _convolution(given: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, out, 3, stride, 1), nn.GroupNorm(_NUM_GROUPS, out), nn.GELU())


def outline_loss(change: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Return cross entropy plus dice of changes (R, S, S), a sum over R; `taught` (R, 5, S, S): views and outlines."""
    before, shares = (taught[:, channel].to(change.dtype) / 255 for channel in (-2, -1))
    logits = change + _trusted(before)
    inside = logits.sigmoid()
    common, both = (inside * shares).sum((1, 2)), inside.sum((1, 2)) + shares.sum((1, 2))
    dice = 1 - (2 * common + 1) / (both + 1)
    return (F.binary_cross_entropy_with_logits(logits, shares, reduction="none").mean((1, 2)) + dice).sum()
