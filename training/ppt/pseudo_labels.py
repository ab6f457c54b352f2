"""The pseudo-labels {ŷ_e} of one pair of image and expression, padded to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PseudoLabels:
    """ŷ_e = (ŝ_e, P̂_e, ĉ_e) of equation 4, for one pair.

    Attributes:
        masks: (E, h, w) float32 in [0, 1], the share of each cell of the decoder's grid that the mask covers.
        points_xy: (E, M, 2) float32 in [0, 1] of the upright image.
        labels: (E, M) float32, 1 inside the mask, 0 outside.
        confidences: (E,) float32, 1 for the referent, 0 for a context or an undecided candidate.
    """

    masks: torch.Tensor
    points_xy: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor

    def __len__(self) -> int:
        """E, the number of candidates."""
        return len(self.confidences)


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


def to_device(batch: PseudoLabelBatch, device: torch.device) -> PseudoLabelBatch:
    """Return a batch whose tensors lie on a device."""
    masks, points_xy, labels, confidences = (
        each.to(device) for each in (batch.masks, batch.points_xy, batch.labels, batch.confidences)
    )
    return PseudoLabelBatch(masks, points_xy, labels, confidences, batch.counts)


def collate(pairs: Sequence[PseudoLabels]) -> PseudoLabelBatch:
    """Return the labels of B pairs, padded with zeros to the largest E."""
    most = max(len(pair) for pair in pairs)

    def padded(name: str) -> torch.Tensor:
        parts = [getattr(pair, name) for pair in pairs]
        return torch.stack([torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in parts])

    return PseudoLabelBatch(
        padded("masks"), padded("points_xy"), padded("labels"), padded("confidences"), tuple(len(p) for p in pairs)
    )
