"""Intervals by resampling scenes: expressions of one scene are not independent, scenes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where nothing was counted."""

    value: float
    low: float
    high: float


class SceneBootstrap:
    """Ratios of sums over scenes, all figures resampled with the same scenes: differences are paired."""

    def __init__(self, scenes: Sequence[Mapping[str, tuple[float, float]]], *, seed: int = 0) -> None:
        """Takes numerator and denominator by figure of each scene."""
        names = sorted({name for counts in scenes for name in counts})
        zero = (0.0, 0.0)
        self._table = {name: np.array([counts.get(name, zero) for counts in scenes]) for name in names}
        rng = np.random.default_rng(seed)
        self._draws = rng.integers(len(scenes), size=(RESAMPLES, len(scenes)))

    @property
    def names(self) -> list[str]:
        """All figures."""
        return list(self._table)

    def ratio(self, name: str) -> Estimate:
        """Returns a figure."""
        return _estimate(_ratio(self._table[name].sum(0)), self._resampled(name))

    def difference(self, name: str, baseline: str) -> Estimate:
        """Returns by how much a figure exceeds another."""
        value = _ratio(self._table[name].sum(0)) - _ratio(self._table[baseline].sum(0))
        return _estimate(value, self._resampled(name) - self._resampled(baseline))

    def _resampled(self, name: str) -> np.ndarray:
        """The figure of each resample, (2000,) float64."""
        sums = self._table[name][self._draws].sum(1)
        missing = np.full(len(sums), np.nan)
        return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=missing, where=sums[:, 1] > 0))


def _ratio(sums: np.ndarray) -> float:
    """Numerator by denominator."""
    return float(sums[0] / sums[1]) if sums[1] > 0 else float("nan")


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    """The central 95 % of the resamples that counted anything."""
    counted = resampled[np.isfinite(resampled)]
    if not len(counted):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(counted, (0.025, 0.975))
    return Estimate(value, float(low), float(high))
