"""Intervals of means over seeds: scenes and seeds are drawn anew, the same scenes for all arms or rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.quality.parts import draw_generator
from pseudoris.training.evaluation.bootstrap import RESAMPLES, Estimate, estimate_of

Floats = NDArray[np.float64]


class _Drawn:
    """Figures by name, and (R,) what they come to in R resamples; intervals are the central 95 % of these."""

    def __init__(self, values: Mapping[str, float], drawn: Mapping[str, Floats]) -> None:
        self._values, self._drawn = values, drawn

    def mean(self, name: str) -> Estimate:
        """Return a figure, a mean over seeds."""
        return estimate_of(self._values[name], self._drawn[name])

    def difference(self, name: str, baseline: str) -> Estimate:
        """Return by how much a figure exceeds another."""
        return estimate_of(self._values[name] - self._values[baseline], self._drawn[name] - self._drawn[baseline])


class SeedBootstrap(_Drawn):
    """A ratio of sums over scenes for each arm, as a mean over its seeds.

    Seeds of two arms have nothing in common but a number, so each arm draws its own. With S seeds the spread of seeds
    is understated by the factor (S - 1) / S, as of any bootstrap.

    Source: percentile intervals, 2.5 % to 97.5 % of `RESAMPLES` draws.
    """

    def __init__(self, arms: Mapping[str, Floats], *, seed: int = 0) -> None:
        """Take (S, scenes, 2) by arm: the sum of a figure and its count; S may differ, the scenes are the same."""
        (num_scenes,) = {sums.shape[1] for sums in arms.values()}
        rng = draw_generator(seed, num_scenes)
        weights = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), RESAMPLES).astype(np.float64)
        super().__init__(
            {name: float(_ratios(sums.sum(1)).mean()) for name, sums in arms.items()},
            {name: _mean_of_drawn_seeds(sums, weights, rng) for name, sums in arms.items()},
        )

    def share(self, name: str, *, floor: str, top: str) -> Estimate:
        """Return how much of the way from `floor` to `top` an arm has come: 0 at the one, 1 at the other."""
        value = (self._values[name] - self._values[floor]) / (self._values[top] - self._values[floor])
        drawn = (self._drawn[name] - self._drawn[floor]) / (self._drawn[top] - self._drawn[floor])
        return estimate_of(value, drawn)


def _mean_of_drawn_seeds(sums: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    """(RESAMPLES,): scenes by `weights` (RESAMPLES, scenes), and as many seeds as there are, with replacement."""
    by_seed = np.stack([_ratios(weights @ each) for each in sums], 1)
    chosen = rng.integers(0, len(sums), (len(weights), len(sums)))
    return np.asarray(np.take_along_axis(by_seed, chosen, 1).mean(1))


def _ratios(sums: Floats) -> Floats:
    """(…,) of (…, 2)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


class PairedSeedBootstrap(_Drawn):
    """mIoU of rows: all are drawn alike, image for image and seed for seed, so that differences are paired.

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
        values: dict[str, float] = {}
        drawn: dict[str, Floats] = {}
        for row, each in sums.items():
            if each.shape not in {(num_seeds, len(counts)), (1, len(counts))}:
                raise ValueError(f"Row {row} has sums of {each.shape}, not of 1 or {num_seeds} seeds by {len(counts)}.")
            values[row] = float(each.mean(0).sum() / counts.sum())
            of_seeds = np.broadcast_to(each, (num_seeds, len(counts)))
            drawn[row] = np.einsum("rs,si,ri->r", seeds, of_seeds, images) / (num_seeds * (images @ counts))
        super().__init__(values, drawn)
