"""Intervals of the ablation's rows: images are drawn again, and so are the seeds of a training.

All rows are drawn alike, image for image and seed for seed, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pseudoris.training.evaluation.bootstrap import RESAMPLES, Estimate, estimate_of


class PairedSeedBootstrap:
    """mIoU of rows and their differences, each with the central 95 % of the resamples.

    A row of one seed has no seeds to draw: its interval tells how much the images decide, and nothing of its training.
    """

    def __init__(
        self,
        iou_sums: Mapping[str, Sequence[Sequence[float]]],
        num_expressions: Sequence[int],
        *,
        seed: int = 0,
        num_resamples: int = RESAMPLES,
    ) -> None:
        """Draw the resamples.

        Args:
            iou_sums: By row, (S, I): of each seed and image, the sum of its expressions' IoU. S is 1 or the same for
                all rows.
            num_expressions: (I,), of each image.
            seed: Of the resamples.
            num_resamples: How many.
        """
        counts = np.asarray(num_expressions, np.float64)
        sums = {row: np.asarray(each, np.float64) for row, each in iou_sums.items()}
        num_seeds = max(len(each) for each in sums.values())
        rng = np.random.default_rng(seed)
        # How often each was drawn, (R, I) and (R, S).
        images = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), num_resamples)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_resamples)
        self._values: dict[str, float] = {}
        self._resampled: dict[str, NDArray[np.float64]] = {}
        for row, each in sums.items():
            if each.shape not in {(num_seeds, len(counts)), (1, len(counts))}:
                raise ValueError(f"Row {row} has sums of {each.shape}, not of 1 or {num_seeds} seeds by {len(counts)}.")
            self._values[row] = float(each.mean(0).sum() / counts.sum())
            of_seeds = np.broadcast_to(each, (num_seeds, len(counts)))
            self._resampled[row] = np.einsum("rs,si,ri->r", seeds, of_seeds, images) / (num_seeds * (images @ counts))

    def miou(self, row: str) -> Estimate:
        """Return the mIoU of a row."""
        return estimate_of(self._values[row], self._resampled[row])

    def difference(self, row: str, baseline: str) -> Estimate:
        """Return by how much the mIoU of a row exceeds another's."""
        return estimate_of(self._values[row] - self._values[baseline], self._resampled[row] - self._resampled[baseline])
