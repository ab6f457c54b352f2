"""Select: which candidate of an H_ref pair is the referent, by a model's own prediction (equations 6 and 7)."""

from __future__ import annotations

import torch


def select(candidates: torch.Tensor, prediction: torch.Tensor, *, min_iou: float) -> torch.Tensor:
    """Return ĉ (E,) float32 of one pair's candidates: 1 for the pseudo-referent, 0 for every other one.

    The pseudo-referent is the candidate of the highest IoU with the prediction, the first of equal ones. Where none
    reaches `min_iou` all stay 0: the pair is undecided until another round. No candidate is ever deleted, for the
    others are the contexts that the referent is told from.

    Args:
        candidates: (E, h, w), masks ŝ_e as bool, or as shares in [0, 1] of which half or more counts.
        prediction: (h, w) bool, the mask of the most confident query.
        min_iou: Inclusive.

    Raises:
        ValueError: The prediction has another size than the candidates.
    """
    if candidates.shape[1:] != prediction.shape:
        raise ValueError(f"a prediction of {tuple(prediction.shape)} for candidates of {tuple(candidates.shape[1:])}")
    chosen = torch.zeros(len(candidates))
    if not len(candidates):
        return chosen
    masks = (candidates if candidates.dtype == torch.bool else candidates >= 0.5).flatten(1)
    wanted = prediction.bool().flatten()
    union = (masks | wanted).sum(-1)
    ious = (masks & wanted).sum(-1) / union.clamp(min=1)
    best = int(ious.argmax())
    if float(ious[best]) >= min_iou:
        chosen[best] = 1.0
    return chosen
