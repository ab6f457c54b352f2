"""A figure with its interval. Made by `audit`, `training`, `pipeline` and experiments, and written here for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import Floats

_BOUNDS: Final = (0.025, 0.975)


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
