"""A figure with its interval, written for people; and intervals by resampling images. For most rooms and experiments.

Expressions of one image depend on each other, so images are resampled. Every resampled figure is a ratio of two sums
over images. A figure for which nothing was counted is NaN, never 0. `pipeline` resamples shards, whose images were
annotated together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import Floats

_BOUNDS: Final = (0.025, 0.975)
RESAMPLES: Final = 2000
# A block of resamples draws at most this many images, which takes 32 MB for indices and as much for counts.
_MAX_DRAWS: Final = 2**22
# Maps a figure to its numerator and denominator, for one image or many.
Sums = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, or that of the level that its maker names; NaN if nothing was counted."""

    value: float
    low: float
    high: float

    @classmethod
    def of_resamples(cls, value: float, resampled: Floats) -> Estimate:
        """Return a figure with the central 95 % of its resamples, (R,), that counted anything."""
        counted = resampled[np.isfinite(resampled)]
        low, high = np.quantile(counted, _BOUNDS) if len(counted) else (math.nan, math.nan)
        return cls(float(value), float(low), float(high))

    @property
    def is_known(self) -> bool:
        """Whether anything was counted."""
        return math.isfinite(self.value)

    def each(self, change: Callable[[float], float]) -> Estimate:
        """Return the estimate in another unit: `change`, which rises, of the figure and of both ends."""
        return Estimate(change(self.value), change(self.low), change(self.high))

    def value_text(self, digits: int, *, sign: str = "") -> str:
        """Return the figure as text, a dash if nothing was counted."""
        return f"{self.value:{sign}.{digits}f}" if self.is_known else "–"

    def interval_text(self, digits: int, *, sign: str = "") -> str:
        """Return the interval as text, empty if there is none."""
        return f"[{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]" if math.isfinite(self.low) else ""

    def text(self, digits: int, *, sign: str = "") -> str:
        """Return the figure and its interval for a person."""
        return f"{self.value_text(digits, sign=sign)} {self.interval_text(digits, sign=sign)}".rstrip()


UNDEFINED: Final = Estimate(math.nan, math.nan, math.nan)


class ImageBootstrap:
    """Ratios of sums over images, all figures resampled with the same images: differences are paired.

    Memory: the sums of all images, 16 bytes per image and figure, twice while they are gathered; and 64 MB.
    """

    def __init__(self, images: Iterable[Sums], *, seed: int = 0) -> None:
        """Take numerator and denominator by figure of each image; what an image does not name counts as 0 by 0."""
        # Maps a figure to its number, which gives its two columns in `table`, (images, 2 · figures).
        self._columns: dict[str, int] = {}
        rows: list[Floats] = []
        for sums in images:
            for name in sums:
                self._columns.setdefault(name, len(self._columns))
            # The sums of an image are an array, because those of 100,000 images would take a gigabyte as dicts.
            row = np.zeros((len(self._columns), 2))
            row[[self._columns[name] for name in sums]] = list(sums.values()) or np.zeros((0, 2))
            rows.append(row.reshape(-1))
        table = np.zeros((len(rows), 2 * len(self._columns)))
        for place, values in enumerate(rows):
            table[place, : len(values)] = values
        self.num_images, self.seed = len(table), seed
        self._totals = table.sum(0).reshape(-1, 2)
        self._values = _ratios(self._totals)
        self._resampled = _ratios(np.concatenate([*_resampled_sums(table, seed)]))

    @property
    def names(self) -> list[str]:
        """All figures, in the order of the alphabet."""
        return sorted(self._columns)

    def ratio(self, name: str) -> Estimate:
        """Return a figure that some image named."""
        column = self._columns[name]
        return Estimate.of_resamples(self._values[column], self._resampled[:, column])

    def difference(self, name: str, baseline: str) -> Estimate:
        """Return by how much a figure exceeds another, resampled together."""
        column, other = self._columns[name], self._columns[baseline]
        resampled = self._resampled[:, column] - self._resampled[:, other]
        return Estimate.of_resamples(self._values[column] - self._values[other], resampled)

    def total(self, name: str) -> tuple[float, float]:
        """Return the sums behind a figure, over all images; 0 by 0 where no image named it."""
        column = self._columns.get(name)
        return (0.0, 0.0) if column is None else (float(self._totals[column, 0]), float(self._totals[column, 1]))


def _resampled_sums(table: Floats, seed: int) -> Iterator[Floats]:
    """Yield the sums of a few resamples at a time, (B, figures, 2) float64."""
    num_images, width = table.shape
    if not num_images:
        yield np.zeros((RESAMPLES, width // 2, 2))
        return
    rng = np.random.default_rng(seed)
    block = max(1, _MAX_DRAWS // num_images)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        draws = rng.integers(num_images, size=(count, num_images)) + np.arange(count)[:, None] * num_images
        # `times` counts how often each image was drawn. One product then replaces a copy of the table per resample.
        times = np.bincount(draws.reshape(-1), minlength=count * num_images).reshape(count, num_images)
        yield (times.astype(np.float64) @ table).reshape(count, -1, 2)


def _ratios(sums: Floats) -> Floats:
    """Return numerator by denominator along the last axis, NaN where nothing was counted."""
    missing = np.full(sums.shape[:-1], np.nan)
    return np.asarray(np.divide(sums[..., 0], sums[..., 1], out=missing, where=sums[..., 1] > 0))
