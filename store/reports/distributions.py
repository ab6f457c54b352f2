"""Counts of values and of texts, summed shard by shard in bounded memory.

Also counts of the captioner's draws by decoder and crop: one definition for `stats` and the quality page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_DIGITS: Final = 4


class Distribution:
    """How often each value occurred; values are rounded to four significant digits.

    So the scores of a billion rows take a few thousand counts, and their quantiles have an error of 0.05 % at most.
    Whole numbers below 10,000 are exact.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._sum = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        """Count (n,) finite values; NaN is ignored."""
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
        """The mean of the unrounded values; None if there are none."""
        return self._sum / self.num_values if self.num_values else None

    def quantile(self, share: float) -> float | None:
        """Return the smallest value that at least `share` of all values do not exceed; None if there are none."""
        due = share * self.num_values
        seen = 0
        value = None
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= due:
                break
        return value


class TopTexts:
    """The most frequent texts of a stream, with memory for `capacity` texts.

    Exact for up to `capacity` distinct texts; with more, a count may be too low by at most `error`.

    Source: Misra and Gries, "Finding repeated elements", 1982; Agarwal et al., "Mergeable summaries", 2012.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._counts: Counter[str] = Counter()
        self.error = 0

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of texts."""
        self._counts.update(counts)
        if len(self._counts) > self._capacity:
            taken = sorted(self._counts.values(), reverse=True)[self._capacity // 2]
            self._counts = Counter({text: count - taken for text, count in self._counts.items() if count > taken})
            self.error += taken

    def top(self, num_texts: int) -> list[tuple[str, int]]:
        """Return the most frequent texts and their counts; equal counts in alphabetical order."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:num_texts]


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    magnitude = np.floor(np.log10(np.abs(values), out=np.zeros_like(values), where=values != 0))
    # For smaller values, the power itself would not be finite.
    shift = 10.0 ** (_DIGITS - 1 - np.maximum(magnitude, -300))
    return np.round(values * shift) / shift


@dataclass(frozen=True, slots=True)
class DrawKind:
    """A kind of draw.

    Attributes:
        decoder: Name of the decoder.
        setting: Its top-k or top-p; None if it has neither.
        crop: Kind of crop.
    """

    decoder: str
    setting: float | None
    crop: str


@dataclass(frozen=True, slots=True)
class DrawCount:
    """The number of draws, and of draws whose text was kept."""

    drawn: int = 0
    kept: int = 0

    def __add__(self, other: DrawCount) -> DrawCount:
        return DrawCount(self.drawn + other.drawn, self.kept + other.kept)


def count_draws(table: pa.Table) -> dict[DrawKind, DrawCount]:
    """Return the draws of an expressions table by kind; a text that was drawn several times counts for each draw.

    Args:
        table: With the columns `samples` and `kept`.
    """
    samples = table["samples"].combine_chunks()
    flat = pc.list_flatten(samples)
    columns = {name: pc.struct_field(flat, name) for name in ("decoder", "top_k", "top_p", "crop")}
    kept = pc.take(table["kept"].combine_chunks(), pc.list_parent_indices(samples))
    grouped = pa.table({**columns, "kept": kept}).group_by(list(columns), use_threads=False)
    found: dict[DrawKind, DrawCount] = {}
    for row in grouped.aggregate([("kept", "count"), ("kept", "sum")]).to_pylist():
        setting = row["top_k"] if row["top_k"] is not None else row["top_p"]
        kind = DrawKind(row["decoder"], setting, row["crop"])
        found[kind] = found.get(kind, DrawCount()) + DrawCount(row["kept_count"], row["kept_sum"] or 0)
    return found
