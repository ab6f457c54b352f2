"""Assigns masks to objects one-to-one by IoU, so that two masks of one object cannot both count as right."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

MIN_MATCH_IOU = 0.5


def iou_table(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return IoU (M, N) float64 in [0, 1] of masks (M, H, W) bool and truth (N, H, W) bool; 0 for empty unions."""
    pixels = masks.shape[1] * masks.shape[2]
    flat, other = (m.reshape(len(m), pixels).astype(np.float32) for m in (masks, truth))
    overlap = (flat @ other.T).astype(np.float64)
    union = flat.sum(1)[:, None] + other.sum(1)[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def match_masks(ious: np.ndarray, *, min_iou: float = MIN_MATCH_IOU) -> dict[int, int]:
    """Return the object of each mask in the assignment with the largest total IoU, without pairs below `min_iou`."""
    if ious.size == 0:
        return {}
    # Pairs below the bound count as 0, so that they cannot displace a good pair.
    worth = np.where(ious >= min_iou, ious, 0.0)
    rows, columns = linear_sum_assignment(-worth)
    return {int(m): int(n) for m, n in zip(rows, columns, strict=True) if ious[m, n] >= min_iou}
