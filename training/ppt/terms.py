"""The terms of equation 4; each returns one number for a pair of a prediction and a pseudo-label.

The terms of masks are written for all K × E pairs of B pairs of image and expression at once, which is a product of
matrices and never holds K · E masks; those of P pairs that are matched are the same with K = E = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from training.ppt.config import ObjectiveConfig


@dataclass(frozen=True)
class Points:
    """P prompts, or the points of P pseudo-labels.

    Attributes:
        xy: (P, M, 2) in [0, 1].
        labels: (P, M): logits of a prediction, 0 or 1 of a pseudo-label.
    """

    xy: torch.Tensor
    labels: torch.Tensor


def dice_losses(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return 1 − (2·|s·ŝ| + 1) / (|s| + |ŝ| + 1) (B, K, E) of logits (B, K, h, w) and masks (B, E, h, w).

    Source: Li et al. 2019 [31].
    """
    probability, wanted = logits.sigmoid().flatten(2), masks.flatten(2)
    overlap = probability @ wanted.transpose(1, 2)
    return 1 - (2 * overlap + 1) / (probability.sum(-1)[:, :, None] + wanted.sum(-1)[:, None] + 1)


def mask_cross_entropies(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy (B, K, E) over the cells of logits (B, K, h, w) and masks (B, E, h, w)."""
    flat, wanted = logits.flatten(2), masks.flatten(2)
    # Of a cell: log(1 + exp(x)) − x·ŝ.
    return (F.softplus(flat).sum(-1, keepdim=True) - flat @ wanted.transpose(1, 2)) / flat.shape[-1]


def mask_losses(logits: torch.Tensor, masks: torch.Tensor, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_mask (B, K, E) float32, dice and cross-entropy, of logits (B, K, h, w) and masks (B, E, h, w)."""
    # Sums of ten thousand cells that nearly cancel: in half precision a cross-entropy may come out below 0.
    with torch.autocast(logits.device.type, enabled=False):
        logits, masks = logits.float(), masks.float()
        cross_entropies = mask_cross_entropies(logits, masks)
        return weights.dice * dice_losses(logits, masks) + weights.mask_cross_entropy * cross_entropies


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_mask (P,) of P matched pairs, logits and masks (P, h, w)."""
    return mask_losses(logits[:, None], masks[:, None], weights)[:, 0, 0]


def point_loss(predicted: Points, wanted: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_pt (P,): L1 of the coordinates and cross-entropy of the labels, means over the M points."""
    order = corresponding(predicted, wanted, weights)
    xy = wanted.xy.gather(1, order[..., None].expand(-1, -1, 2))
    distance = (predicted.xy - xy).abs().sum(-1).mean(-1)
    label = F.binary_cross_entropy_with_logits(predicted.labels, wanted.labels.gather(1, order), reduction="none")
    return weights.point_l1 * distance + weights.point_label * label.mean(-1)


@torch.no_grad()
def corresponding(predicted: Points, wanted: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return which point (P, M) int64 of the pseudo-label each predicted point answers for.

    A pseudo-label's points are a set, drawn in no order: the assignment of least loss makes the loss one of sets.
    """
    num_pairs, num_points = predicted.labels.shape
    if weights.point_correspondence == "order":
        return torch.arange(num_points, device=predicted.xy.device).expand(num_pairs, -1)
    distance = torch.cdist(predicted.xy, wanted.xy, p=1)
    logits, labels = predicted.labels[:, :, None], wanted.labels[:, None, :]
    label = F.softplus(logits) - logits * labels
    costs = (weights.point_l1 * distance + weights.point_label * label).cpu().numpy()
    # A square assignment comes back with its rows in order.
    order = np.array([linear_sum_assignment(cost)[1] for cost in costs], dtype=np.int64).reshape(num_pairs, num_points)
    return torch.from_numpy(order).to(predicted.xy.device)


def confidence_loss(logits: torch.Tensor, confidences: torch.Tensor) -> torch.Tensor:
    """Return l_bce of confidences, elementwise; both of one shape."""
    return F.binary_cross_entropy_with_logits(logits, confidences, reduction="none")


def look_loss(looks: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return how far where a query looks is from what its mask covers, a Kullback-Leibler divergence (P,).

    Args:
        looks: (P, h·w), logarithms of shares.
        shares: (P, h·w) in [0, 1], of each patch the mask covers; a mask that no patch shows counts nothing.
    """
    wanted = shares / shares.sum(-1, keepdim=True).clamp(min=1e-6)
    return F.kl_div(looks, wanted, reduction="none").sum(-1)
