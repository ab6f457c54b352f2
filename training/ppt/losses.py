"""Equation 4: the loss of matched pairs, and the cost of matching pseudo-labels with queries, σ(e) (section 3.1.2).

Each term is one number for a pair of a prediction and a pseudo-label. The terms of masks are written for all K × E
pairs of B pairs of image and expression at once: a product of matrices, which never holds K · E masks. For P matched
pairs they are the same with K = E = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from pseudoris.training.ppt.pairs import PseudoLabelBatch
from pseudoris.training.ppt.point_generator import PointPrompts
from pseudoris.training.ppt.ppt_config import ObjectiveConfig
from pseudoris.workers.device import to_device


@dataclass(frozen=True)
class Points:
    """Points (P, M, 2) in [0, 1] of P prompts or pseudo-labels, and labels (P, M): logits of a prompt, else 0 or 1."""

    xy: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Assignment:
    """R matched pairs of a batch: rows of the batch, and in each the query and the pseudo-label; (R,) int64 each."""

    rows: torch.Tensor
    queries: torch.Tensor
    labels: torch.Tensor


def dice_losses(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return 1 − (2·|s·ŝ| + 1) / (|s| + |ŝ| + 1) (B, K, E) of logits (B, K, h, w) and masks (B, E, h, w).

    Source: Li et al. 2019 [31].
    """
    probability, target = logits.sigmoid().flatten(2), masks.flatten(2)
    overlap = probability @ target.transpose(1, 2)
    return 1 - (2 * overlap + 1) / (probability.sum(-1)[:, :, None] + target.sum(-1)[:, None] + 1)


def mask_cross_entropies(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy (B, K, E) over the cells of logits (B, K, h, w) and masks (B, E, h, w)."""
    flat, target = logits.flatten(2), masks.flatten(2)
    # For each cell: log(1 + exp(x)) − x·ŝ.
    return (F.softplus(flat).sum(-1, keepdim=True) - flat @ target.transpose(1, 2)) / flat.shape[-1]


def mask_losses(logits: torch.Tensor, masks: torch.Tensor, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_mask (B, K, E) float32, dice and cross-entropy, of logits (B, K, h, w) and masks (B, E, h, w)."""
    # Sums of ten thousand cells nearly cancel: in half precision a cross-entropy could be below 0.
    with torch.autocast(logits.device.type, enabled=False):
        logits, masks = logits.float(), masks.float()
        cross_entropies = mask_cross_entropies(logits, masks)
        return weights.dice * dice_losses(logits, masks) + weights.mask_cross_entropy * cross_entropies


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_mask (P,) of P matched pairs, logits and masks (P, h, w)."""
    return mask_losses(logits[:, None], masks[:, None], weights)[:, 0, 0]


def point_loss(predicted: Points, target: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_pt (P,): L1 of the coordinates and cross-entropy of the labels, means over the M points."""
    order = corresponding(predicted, target, weights)
    xy = target.xy.gather(1, order[..., None].expand(-1, -1, 2))
    distance = (predicted.xy - xy).abs().sum(-1).mean(-1)
    label = F.binary_cross_entropy_with_logits(predicted.labels, target.labels.gather(1, order), reduction="none")
    return weights.point_l1 * distance + weights.point_label * label.mean(-1)


@torch.no_grad()
def corresponding(predicted: Points, target: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return the point (P, M) int64 of the pseudo-label that is assigned to each predicted point.

    A pseudo-label's points are a set, drawn in no order: the assignment of least loss makes the loss one of sets.
    """
    num_pairs, num_points = predicted.labels.shape
    if weights.point_correspondence == "order":
        return torch.arange(num_points, device=predicted.xy.device).expand(num_pairs, -1)
    distance = torch.cdist(predicted.xy, target.xy, p=1)
    logits, labels = predicted.labels[:, :, None], target.labels[:, None, :]
    label = F.softplus(logits) - logits * labels
    costs = (weights.point_l1 * distance + weights.point_label * label).cpu().numpy()
    # A square assignment comes back with its rows in order.
    order = np.array([linear_sum_assignment(cost)[1] for cost in costs], dtype=np.int64).reshape(num_pairs, num_points)
    return to_device(order, predicted.xy.device)


def confidence_loss(logits: torch.Tensor, confidences: torch.Tensor) -> torch.Tensor:
    """Return l_bce of confidences, elementwise; both of one shape."""
    return F.binary_cross_entropy_with_logits(logits, confidences, reduction="none")


def attention_loss(log_shares: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence (P,) between a query's attention, in logarithms, and its mask.

    Both are (P, h·w), the mask's the share in [0, 1] of each patch that it covers; a mask without a patch gives 0.
    """
    target = shares / shares.sum(-1, keepdim=True).clamp(min=1e-6)
    return F.kl_div(log_shares, target, reduction="none").sum(-1)


@torch.no_grad()
def matching_cost(
    prompts: PointPrompts, mask_logits: torch.Tensor, pseudo_labels: PseudoLabelBatch, weights: ObjectiveConfig
) -> torch.Tensor:
    """Return the cost (B, K, E) of assigning query k to pseudo-label e; mask logits (B, K, h, w)."""
    shape = (*prompts.confidence_logits.shape, pseudo_labels.confidences.shape[1])

    def of_queries(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, :, None].expand(*shape, *tensor.shape[2:]).flatten(0, 2)

    def of_labels(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, None].expand(*shape, *tensor.shape[2:]).flatten(0, 2)

    predicted = Points(of_queries(prompts.points_xy), of_queries(prompts.label_logits))
    points = point_loss(predicted, Points(of_labels(pseudo_labels.points_xy), of_labels(pseudo_labels.labels)), weights)
    confidence = confidence_loss(of_queries(prompts.confidence_logits), of_labels(pseudo_labels.confidences))
    share = weights.confidence * weights.confidence_in_matching
    return mask_losses(mask_logits, pseudo_labels.masks, weights) + (points + share * confidence).view(shape)


def assign(cost: torch.Tensor, counts: tuple[int, ...]) -> Assignment:
    """Return the assignment of least cost; `counts` is the number of real pseudo-labels among the E of each row.

    Every label has a query of its own; if there are more labels than queries, the costliest labels have none.
    Source: Kuhn 1955, by scipy.
    """
    rows: list[int] = []
    queries: list[int] = []
    labels: list[int] = []
    for row, (matrix, count) in enumerate(zip(cost.detach().cpu().numpy(), counts, strict=True)):
        chosen, answered = linear_sum_assignment(matrix[:, :count])
        rows += [row] * len(chosen)
        queries += chosen.tolist()
        labels += answered.tolist()
    return Assignment(*to_device(np.array([rows, queries, labels], dtype=np.int64), cost.device))
