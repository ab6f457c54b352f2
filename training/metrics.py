"""The metrics of referring image segmentation, the same for all learners.

For each expression four whole numbers are kept: the pixels of the intersection, the union, the prediction and the
target. `SegmentationFigures` defines the figures and names the source of each definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

# P@0.5 to P@0.9 are the field's (Yu et al., "Modeling Context in Referring Expressions", 2016, and all since); P@0.3 is
# that of weakly supervised work (PPT, tables 2 and 3): the right object was found, with any outline.
PRECISION_AT: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
# Overall IoU where no pixel is predicted and none wanted: all is as it should be.
NOTHING_ASKED_OIOU: Final = 1.0


@dataclass(frozen=True, slots=True)
class SegmentationFigures:
    """How well predicted masks fit, all of them shares in [0, 1]; nan where nothing was counted that they are over.

    An expression without a target (gRefCOCO) has IoU 1 where the prediction is empty too, else 0. The target of a group
    expression is the union of its masks.

    Attributes:
        num_expressions: Expressions counted.
        oiou: Overall IoU: the sum of intersections over the sum of unions, so that large objects count most (LAVT,
            CRIS: "overall IoU"; GRES: cIoU).
        miou: Mean over expressions of each one's IoU (with expressions without a target among them GRES's gIoU).
        precision: By threshold X, the share of expressions with IoU > X, as CRIS and ETRIS count it; LAVT counts >=,
            which differs only where an IoU meets X exactly.
        no_target_accuracy: Share of the expressions without a target that an empty mask answered (GRES: N-acc.).
        target_accuracy: Share of those with one that were not (GRES: T-acc.).
    """

    num_expressions: int
    oiou: float
    miou: float
    precision: Mapping[float, float]
    no_target_accuracy: float
    target_accuracy: float


class SegmentationMeter:
    """Gathers predictions against targets, in any order and any number of parts; whole numbers, so nothing rounds."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """Return the number of expressions."""
        return sum(map(len, self._rows))

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> NDArray[np.float64]:
        """Count expressions, and return their IoU (T,) float64.

        Args:
            predicted: (T, H, W) bool, or (H, W) of one; upright image pixels.
            target: The same shape; all False where an expression has no target.

        Raises:
            ValueError: They are not bool, or of two shapes.
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
        rows = torch.stack(counts, 1).cpu().numpy().astype(np.int64)
        self._rows.append(rows)
        return ious_of(rows)

    def add_rows(self, rows: NDArray[np.int64]) -> None:
        """Add the counts of another meter, such as another rank's, (T, 4) int64."""
        if len(rows):
            self._rows.append(np.asarray(rows, np.int64).reshape(-1, 4))

    def rows(self) -> NDArray[np.int64]:
        """Return intersection, union, predicted and target pixels of each expression, (T, 4) int64, as they came."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 4), np.int64)

    def figures(self) -> SegmentationFigures:
        """Return the figures over all that was counted."""
        rows = self.rows()
        sums = figure_sums(rows)
        shares = {name: part / whole if whole else float("nan") for name, (part, whole) in sums.items()}
        return SegmentationFigures(
            num_expressions=len(rows),
            oiou=NOTHING_ASKED_OIOU if len(rows) and not rows[:, 1].any() else shares["oiou"],
            miou=shares["miou"],
            precision={at: shares[f"p@{at}"] for at in PRECISION_AT},
            no_target_accuracy=shares["no_target_accuracy"],
            target_accuracy=shares["target_accuracy"],
        )


def pixel_counts(predicted: torch.Tensor, target: torch.Tensor) -> NDArray[np.int64]:
    """Return intersection, union, predicted and target pixels of each expression, (T, 4) int64.

    Masks are (T, H, W) bool, or (H, W) of one, upright image pixels; a target is all False where an expression has
    none. Others are a ValueError.
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
    return torch.stack(counts, 1).cpu().numpy().astype(np.int64)


def ious_of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each expression, (T,); 1 where nothing is predicted and nothing wanted."""
    intersection, union = rows[:, 0].astype(np.float64), rows[:, 1].astype(np.float64)
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def figure_sums(rows: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Return numerator and denominator of each figure, by name, which add up over images.

    They are `oiou`, `miou`, `p@0.3` and on, `no_target_accuracy`, `target_accuracy`, of `pixel_counts`.
    """
    count, ious = float(len(rows)), ious_of(rows)
    is_empty, has_target = rows[:, 2] == 0, rows[:, 3] > 0
    found = {"oiou": (float(rows[:, 0].sum()), float(rows[:, 1].sum())), "miou": (float(ious.sum()), count)}
    found |= {f"p@{at}": (float((ious > at).sum()), count) for at in PRECISION_AT}
    found["no_target_accuracy"] = (float(is_empty[~has_target].sum()), float((~has_target).sum()))
    found["target_accuracy"] = (float((~is_empty[has_target]).sum()), float(has_target.sum()))
    return found


def figures_of(rows: NDArray[np.int64]) -> dict[str, float]:
    """Return how well predicted masks fit, by the names of `figure_sums`: shares, nan where nothing was counted.

    An expression without a target (gRefCOCO) has IoU 1 where the prediction is empty too, else 0. The target of a group
    expression is the union of its masks.

    oiou    Overall IoU: the sum of intersections over the sum of unions, so that large objects count most (LAVT, CRIS:
            "overall IoU"; GRES: cIoU).
    miou    Mean over expressions of each one's IoU (with expressions without a target among them GRES's gIoU).
    p@X     The share of expressions with IoU > X, as CRIS and ETRIS count it; LAVT counts >=, which differs only where
            an IoU meets X exactly.
    no_target_accuracy, target_accuracy
            The share of the expressions without a target that an empty mask answered (GRES: N-acc.), and of those with
            one that were not (GRES: T-acc.).
    """
    figures = {name: part / whole if whole else float("nan") for name, (part, whole) in figure_sums(rows).items()}
    if len(rows) and not rows[:, 1].any():
        figures["oiou"] = NOTHING_ASKED_OIOU
    return figures
