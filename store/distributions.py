"""Counts of values and of texts, added up shard by shard in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

_DIGITS: Final = 4


class Distribution:
    """How often each value occurred; values are told apart to four significant digits.

    So scores of a billion rows are some thousands of counts, and a quantile of them is off by 0.05 % at most. Whole
    numbers below 10,000 are exact.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._sum = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        """Count (n,) finite values; NaN is passed over."""
        array = np.asarray(values, np.float64)
        array = array[~np.isnan(array)]
        self._sum += float(array.sum())
        rounded, counts = np.unique(_rounded(array), return_counts=True)
        self._counts.update(dict(zip(rounded.tolist(), counts.tolist(), strict=True)))

    @property
    def num_values(self) -> int:
        """How many were counted."""
        return self._counts.total()

    @property
    def mean(self) -> float | None:
        """Their mean, of the values as they were; None of none."""
        return self._sum / self.num_values if self.num_values else None

    def quantile(self, share: float) -> float | None:
        """Return the smallest value that at least `share` of all do not exceed; None of none."""
        due = share * self.num_values
        seen = 0
        value = None
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= due:
                break
        return value


class TopTexts:
    """The most frequent texts of a stream, in the memory of `capacity` of them.

    Exact while there are no more distinct ones; beyond, a count may be too low by `error` at most.

    Source: Misra and Gries, "Finding repeated elements", 1982; Agarwal et al., "Mergeable summaries", 2012.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._counts: Counter[str] = Counter()
        self.error = 0

    def add(self, counts: Mapping[str, int]) -> None:
        """Count texts, each so many times."""
        self._counts.update(counts)
        if len(self._counts) > self._capacity:
            taken = sorted(self._counts.values(), reverse=True)[self._capacity // 2]
            self._counts = Counter({text: count - taken for text, count in self._counts.items() if count > taken})
            self.error += taken

    def top(self, num_texts: int) -> list[tuple[str, int]]:
        """Return the most frequent ones and their counts; equal counts in the order of the alphabet."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:num_texts]


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    magnitude = np.floor(np.log10(np.abs(values), out=np.zeros_like(values), where=values != 0))
    # Below, the power itself would not be finite.
    shift = 10.0 ** (_DIGITS - 1 - np.maximum(magnitude, -300))
    return np.round(values * shift) / shift
