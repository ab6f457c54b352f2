"""The assignment σ(e) between pseudo-labels and queries, with equation 4 as its cost (section 3.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from training.ppt.config import ObjectiveConfig
from training.ppt.point_generator import PointPrompts
from training.ppt.pseudo_labels import PseudoLabelBatch
from training.ppt.terms import Points, confidence_loss, mask_losses, point_loss


@dataclass(frozen=True)
class Assignment:
    """R matched pairs of a batch: rows of the batch, and in each the query and the pseudo-label; (R,) int64 each."""

    rows: torch.Tensor
    queries: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def matching_cost(
    prompts: PointPrompts, mask_logits: torch.Tensor, wanted: PseudoLabelBatch, weights: ObjectiveConfig
) -> torch.Tensor:
    """Return the cost (B, K, E) of answering for pseudo-label e with query k; mask logits (B, K, h, w)."""
    shape = (*prompts.confidence_logits.shape, wanted.confidences.shape[1])

    def of_queries(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, :, None].expand(*shape, *tensor.shape[2:]).flatten(0, 2)

    def of_labels(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:, None].expand(*shape, *tensor.shape[2:]).flatten(0, 2)

    predicted = Points(of_queries(prompts.points_xy), of_queries(prompts.label_logits))
    points = point_loss(predicted, Points(of_labels(wanted.points_xy), of_labels(wanted.labels)), weights)
    confidence = confidence_loss(of_queries(prompts.confidence_logits), of_labels(wanted.confidences))
    share = weights.confidence * weights.confidence_in_matching
    return mask_losses(mask_logits, wanted.masks, weights) + (points + share * confidence).view(shape)


def assign(cost: torch.Tensor, counts: tuple[int, ...]) -> Assignment:
    """Return the assignment of least cost; `counts` says how many of the E pseudo-labels of each row are real.

    Every label has a query of its own; where there are more labels than queries, the dearest ones have none.
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
    as_index = [torch.tensor(index, dtype=torch.int64, device=cost.device) for index in (rows, queries, labels)]
    return Assignment(*as_index)
