"""The metrics of referring image segmentation, one definition for all learners.

Called by `chooser`, `evaluation`, examples and experiments. Four whole numbers are kept for each expression: the pixels
of the intersection, the union, the prediction and the target. Rows of any parts can be joined, so nothing rounds.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

# P@0.5 to P@0.9 are the field's (Yu et al., "Modeling Context in Referring Expressions", 2016, and all since); P@0.3 is
# that of weakly supervised work (PPT, tables 2 and 3): the right object was found, with any outline.
PRECISION_AT: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
# The overall IoU is this if no pixel is predicted and none is wanted, because the answer is perfect.
NOTHING_ASKED_OIOU: Final = 1.0


def pixel_counts(
    predicted: torch.Tensor, target: torch.Tensor, is_missing: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return intersection, union, predicted and target pixels of each expression, (T, 4) int64.

    Masks are (T, H, W) bool, or (H, W) of one, upright image pixels; a target is all False where an expression has
    none. Others are a ValueError. Where `is_missing` (T,), there is no prediction: it counts as in `figures_of`.
    """
    if predicted.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"The masks are {predicted.dtype} and {target.dtype}. Threshold them to bool first.")
    if predicted.shape != target.shape or predicted.ndim not in (2, 3):
        raise ValueError(
            f"The prediction has shape {tuple(predicted.shape)}, the target {tuple(target.shape)}. Both must be "
            "(T, H, W) or (H, W), in pixels of the image."
        )
    guess, truth = (mask.reshape(-1, mask.shape[-2] * mask.shape[-1]) for mask in (predicted, target))
    counts = [(guess & truth).sum(1), (guess | truth).sum(1), guess.sum(1), truth.sum(1)]
    rows: NDArray[np.int64] = torch.stack(counts, 1).cpu().numpy().astype(np.int64)
    if is_missing is not None:
        # A missing answer counts as the worst one: no common pixel, the largest union, a mask only if none is meant.
        rows[is_missing, 0], rows[is_missing, 1] = 0, guess.shape[1]
        rows[is_missing, 2] = np.where(rows[is_missing, 3] > 0, 0, guess.shape[1])
    return rows


def ious_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each expression, (T,); 1 where nothing is predicted and nothing wanted."""
    intersection, union = rows[:, 0].astype(np.float64), rows[:, 1].astype(np.float64)
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def figure_sums(rows: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Return numerator and denominator of each figure, by name, which add up over images.

    They are `oiou`, `giou`, `miou`, `p@0.3` and on, `no_target_accuracy`, `target_accuracy`, of `pixel_counts`.
    """
    is_empty, has_target = rows[:, 2] == 0, rows[:, 3] > 0
    every, ious = ious_of(rows), ious_of(rows[has_target])
    found = {"oiou": (float(rows[:, 0].sum()), float(rows[:, 1].sum())), "giou": (float(every.sum()), float(len(rows)))}
    found["miou"] = float(ious.sum()), float(len(ious))
    found |= {f"p@{at}": (float((ious > at).sum()), float(len(ious))) for at in PRECISION_AT}
    found["no_target_accuracy"] = (float(is_empty[~has_target].sum()), float((~has_target).sum()))
    found["target_accuracy"] = (float((~is_empty[has_target]).sum()), float(has_target.sum()))
    return found


def figures_of(rows: NDArray[np.int64]) -> dict[str, float]:
    """Return how well predicted masks fit, by the names of `figure_sums`: shares, nan where nothing was counted.

    An expression without a target (gRefCOCO) has IoU 1 where the prediction is empty too, else 0. The target of a group
    expression is the union of its masks. A missing prediction is never better than any other: it has IoU 0, counts as
    wrong in N-acc. and T-acc., and in oIoU the whole image is its union. The rule is ours: GRES's evaluation has an
    answer to every expression, and gRefCOCO's stops where one is missing (`mdetr/datasets/refexp.py`, 41a8f00).

    oiou    Overall IoU: the sum of intersections over the sum of unions, so that large objects count most (LAVT, CRIS:
            "overall IoU"; GRES: cIoU).
    giou    Mean over all expressions of each one's IoU, those without a target among them (GRES: gIoU). Where all have
            a target, it is miou.
    miou    Mean of the IoU over the expressions with a target.
    p@X     The share of the expressions with a target whose IoU is > X, as CRIS and ETRIS count it; LAVT and GRES count
            >=, which differs only where an IoU meets X exactly.
    no_target_accuracy, target_accuracy
            The share of the expressions without a target that an empty mask answered (GRES: N-acc.), and of those with
            one that were not (GRES: T-acc.).

    Source of GRES's: Liu, Ding, Jiang, "GRES: Generalized Referring Expression Segmentation" (CVPR 2023), section 3;
    henghuiding/ReLA, `gres_model/evaluation/refer_evaluation.py`, 1e6e889. ReLA asks a head of its own whether there is
    a target; here an empty mask is that answer.
    """
    figures = {name: part / whole if whole else float("nan") for name, (part, whole) in figure_sums(rows).items()}
    if len(rows) and not rows[:, 1].any():
        figures["oiou"] = NOTHING_ASKED_OIOU
    return figures
