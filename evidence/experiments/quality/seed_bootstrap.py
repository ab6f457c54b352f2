"""Intervals of means over seeds: scenes and seeds are drawn anew, the same scenes for all arms or rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evidence.experiments.quality.parts import draw_generator
from pseudoris.schemas.estimate import RESAMPLES, Estimate

Floats = NDArray[np.float64]


class SeedBootstrap:
    """A ratio of sums over scenes for each arm, as a mean over its seeds.

    Seeds of two arms have nothing in common but a number, so each arm draws its own. With S seeds the spread of seeds
    is understated by the factor (S - 1) / S, as of any bootstrap: a difference has `Answered.difference`.

    Source: percentile intervals, 2.5 % to 97.5 % of `RESAMPLES` draws.
    """

    def __init__(self, arms: Mapping[str, Floats], *, seed: int = 0) -> None:
        """Take (S, scenes, 2) by arm: the sum of a figure and its count; S may differ, the scenes are the same."""
        (num_scenes,) = {sums.shape[1] for sums in arms.values()}
        rng = draw_generator(seed, num_scenes)
        weights = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), RESAMPLES).astype(np.float64)
        self._values = {name: float(_ratios(sums.sum(1)).mean()) for name, sums in arms.items()}
        self._drawn = {name: _mean_of_drawn_seeds(sums, weights, rng) for name, sums in arms.items()}

    def mean(self, name: str) -> Estimate:
        """Return a figure, a mean over seeds."""
        return Estimate.of_resamples(self._values[name], self._drawn[name])

    def share(self, name: str, *, floor: str, top: str) -> Estimate:
        """Return how much of the way from `floor` to `top` an arm has come: 0 at the one, 1 at the other."""
        value = (self._values[name] - self._values[floor]) / (self._values[top] - self._values[floor])
        drawn = (self._drawn[name] - self._drawn[floor]) / (self._drawn[top] - self._drawn[floor])
        return Estimate.of_resamples(value, drawn)


def _mean_of_drawn_seeds(sums: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    """(RESAMPLES,): scenes by `weights` (RESAMPLES, scenes), and as many seeds as there are, with replacement."""
    by_seed = np.stack([_ratios(weights @ each) for each in sums], 1)
    chosen = rng.integers(0, len(sums), (len(weights), len(sums)))
    return np.asarray(np.take_along_axis(by_seed, chosen, 1).mean(1))


def _ratios(sums: Floats) -> Floats:
    """(…,) of (…, 2)."""
    return np.asarray(sums[..., 0] / sums[..., 1])
