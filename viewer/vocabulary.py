"""How the vocabulary grows with the expressions that are read: points of the curve, and Heaps' law through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from viewer.duplicates import words_of

_MAX_POINTS: Final = 256
# Fewer points say nothing of a slope.
_MIN_FITTED: Final = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """Distinct words against expressions.

    Attributes:
        points: (expressions read, distinct words among them), both ascending, from (0, 0).
        heaps_exponent: β of words = K · expressions^β, by least squares on the logarithms; None for too few points.
            Near 0 the vocabulary is used up, and at 0.5 it grows as a natural text's does.
    """

    points: tuple[tuple[int, int], ...]
    heaps_exponent: float | None

    @property
    def num_words(self) -> int:
        """Distinct words in all."""
        return self.points[-1][1]


class VocabularyGrowth:
    """Takes expressions in order; keeps the distinct words, and a few hundred points of the curve."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._num_read = 0
        self._points = [(0, 0)]
        self._step = 1

    def add(self, texts: Iterable[str]) -> None:
        """Read expressions."""
        for text in texts:
            self._words.update(words_of(text))
            self._num_read += 1
            if self._num_read % self._step == 0:
                self._points.append((self._num_read, len(self._words)))
                if len(self._points) > _MAX_POINTS:
                    # How many will come is not known: every other point is given up, and the step doubles.
                    self._points = self._points[::2]
                    self._step *= 2

    def growth(self) -> Growth:
        """Return the curve so far, its last point included."""
        last = (self._num_read, len(self._words))
        points = self._points if self._points[-1] == last else [*self._points, last]
        return Growth(tuple(points), _heaps_exponent(points))


def _heaps_exponent(points: list[tuple[int, int]]) -> float | None:
    seen = np.array([point for point in points if min(point) > 0], dtype=np.float64)
    if len(seen) < _MIN_FITTED:
        return None
    logs = np.log(seen)
    return float(np.polynomial.polynomial.polyfit(logs[:, 0], logs[:, 1], 1)[1])
