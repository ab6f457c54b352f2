"""The pseudo-labels {ŷ_e} of a pair, and batches of them: masks in the decoder's frame, and points (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.workers.device import to_device
from pseudoris.workers.masks.sam_model import resized_size


@dataclass(frozen=True)
class PseudoLabels:
    """ŷ_e = (ŝ_e, P̂_e, ĉ_e) of equation 4, for one pair of E pseudo-masks.

    Attributes:
        masks: (E, h, w) float32 in [0, 1], the share of each cell of the decoder's grid that the mask covers.
        points_xy: (E, M, 2) float32 in [0, 1] of the upright image.
        labels: (E, M) float32, 1 inside the mask, 0 outside.
        confidences: (E,) float32, 1 for the referent, 0 for a context or an undecided pseudo-mask.
    """

    masks: torch.Tensor
    points_xy: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor


@dataclass(frozen=True)
class PseudoLabelBatch:
    """The labels of B pairs: masks (B, E, h, w), points (B, E, M, 2), labels (B, E, M), confidences (B, E).

    `counts` holds how many of the E rows of each pair are labels; the rest is padding.
    """

    masks: torch.Tensor
    points_xy: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor
    counts: tuple[int, ...]

    def to(self, device: torch.device) -> PseudoLabelBatch:
        """Return the batch with its tensors on a device."""
        tensors = (self.masks, self.points_xy, self.labels, self.confidences)
        masks, points_xy, labels, confidences = (to_device(each, device) for each in tensors)
        return PseudoLabelBatch(masks, points_xy, labels, confidences, self.counts)


@dataclass(frozen=True, slots=True)
class LabelFrame:
    """The frame of pseudo-masks: that of SAM's decoder.

    Attributes:
        image_size: Side of the square that SAM's image encoder sees, the image's longer side filling it.
        grid: Cells a side of the decoder's mask logits, a divisor of it.
    """

    image_size: int
    grid: int


def collate(pairs: Sequence[PseudoLabels]) -> PseudoLabelBatch:
    """Return the labels of B pairs, padded with zeros to the largest E."""
    counts = tuple(len(pair.confidences) for pair in pairs)
    most = max(counts)

    def padded(name: str) -> torch.Tensor:
        parts = [getattr(pair, name) for pair in pairs]
        return torch.stack([torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in parts])

    return PseudoLabelBatch(padded("masks"), padded("points_xy"), padded("labels"), padded("confidences"), counts)


def points_in_box(
    mask: NDArray[np.bool_], num_points: int, key: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return P̂: points (M, 2) xy in [0, 1] of the image, uniform in the mask's box, and labels (M,), 1 inside, else 0.

    Source: section 3.2. The mask, (H, W) bool, has at least one pixel; `key` decides the draw.
    """
    ys, xs = np.nonzero(mask)
    rng = np.random.Generator(np.random.Philox(key=key))
    low = np.array([xs.min(), ys.min()], np.float64)
    high = np.array([xs.max() + 1, ys.max() + 1], np.float64)
    # Below the box's end, where floating point would round up to it.
    drawn = np.minimum(rng.uniform(low, high, size=(num_points, 2)), high - 1e-6)
    at = np.floor(drawn).astype(np.int64)
    labels = mask[at[:, 1], at[:, 0]].astype(np.float32)
    return (drawn / np.array([mask.shape[1], mask.shape[0]])).astype(np.float32), labels


def masks_in_frame(masks: torch.Tensor, frame: LabelFrame) -> torch.Tensor:
    """Return how much of each cell of the decoder's grid the masks cover, (E, grid, grid) float32, of (E, H, W) bool.

    The image's longer side fills the square, from its top left corner, and the rest is padding, as SAM pads.
    """
    size = resized_size((masks.shape[1], masks.shape[2]), frame.image_size)
    inside = F.interpolate(masks[:, None].float(), size, mode="area")
    padding = (0, frame.image_size - size[1], 0, frame.image_size - size[0])
    square = F.pad(inside, padding)
    return F.adaptive_avg_pool2d(square, frame.grid)[:, 0]
