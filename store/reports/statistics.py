"""Statistics of a run: totals from receipts, distributions from columns. Called by `cli/run_contents` and `viewer`.

Memory must not grow with the run: values are counted rounded, texts up to a capacity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS, SCORE_COLUMNS, Ints
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.runs.copied_pictures import CopyCounts, count_copies
from pseudoris.store.runs.receipts import RunTotals, Totals, spread_evenly
from pseudoris.store.tables.kept_clauses import KeptClause, kept_clauses
from pseudoris.store.tables.open_run import CommittedShard, OpenRun, occurrences

_DIGITS: Final = 4


class Distribution:
    """How often each value occurred; values are rounded to four significant digits.

    The scores of a billion rows take a few thousand counts, and their quantiles have an error of at most 0.05 %. Whole
    numbers below 10,000 are exact.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._sum = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        """Count (n,) finite values; NaN is ignored."""
        array = np.asarray(values, np.float64)
        array = array[~np.isnan(array)]
        self._sum += float(array.sum())
        magnitude = np.floor(np.log10(np.abs(array), out=np.zeros_like(array), where=array != 0))
        # The magnitude has a lower bound, because the power of ten would overflow for smaller values.
        shift = 10.0 ** (_DIGITS - 1 - np.maximum(magnitude, -300))
        rounded, counts = np.unique(np.round(array * shift) / shift, return_counts=True)
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
        due, seen, value = share * self.num_values, 0, None
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= due:
                break
        return value


class TopTexts:
    """The most frequent texts of a stream. Exact for up to `capacity` distinct texts, else too low by at most `error`.

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


@dataclass(frozen=True, slots=True)
class DrawKind:
    """A kind of draw: its decoder with top-k or top-p (None if it has neither), and its kind of crop."""

    decoder: str
    setting: float | None
    crop: str


@dataclass(frozen=True, slots=True)
class KeptCount:
    """How many candidates or draws there are of a kind, and how many of them are kept."""

    counted: int = 0
    kept: int = 0

    def __add__(self, other: KeptCount) -> KeptCount:
        return KeptCount(self.counted + other.counted, self.kept + other.kept)

    @property
    def share(self) -> float:
        """Share of the counted ones that are kept."""
        return self.kept / self.counted


def count_draws(table: pa.Table) -> dict[DrawKind, KeptCount]:
    """Return the draws of an expressions table (its `samples` and `kept`) by kind; equal texts count for each draw."""
    samples = table["samples"].combine_chunks()
    flat = pc.list_flatten(samples)
    columns = {name: pc.struct_field(flat, name) for name in ("decoder", "top_k", "top_p", "crop")}
    kept = pc.take(table["kept"].combine_chunks(), pc.list_parent_indices(samples))
    grouped = pa.table({**columns, "kept": kept}).group_by(list(columns), use_threads=False)
    found: dict[DrawKind, KeptCount] = {}
    for row in grouped.aggregate([("kept", "count"), ("kept", "sum")]).to_pylist():
        setting = row["top_k"] if row["top_k"] is not None else row["top_p"]
        kind = DrawKind(row["decoder"], setting, row["crop"])
        found[kind] = found.get(kind, KeptCount()) + KeptCount(row["kept_count"], row["kept_sum"] or 0)
    return found


# By default this many shards are read: with 100 images each, they give shares of expressions to about 0.1 %.
DEFAULT_SAMPLE: Final = 1_000
# Maps what expressions are grouped by to what a group counts. A text counts once for each draw that gave it.
GROUPS: Final[Mapping[str, str]] = {"source": "candidates", "decoder": "draws", "crop": "draws"}

_THREADS: Final = 4
_COLUMNS: Final = ("target_mask_ids", "text", "kept", "source", "samples", *SCORE_COLUMNS)

# The function gets the number of shards read so far, and the number of shards to read.
OnProgress = Callable[[int, int], None]


@dataclass(slots=True)
class RunStatistics:
    """Statistics of a run. The totals cover all committed shards, the other figures only the shards that were read.

    Attributes:
        masks_an_image: Over images that are not quarantined, including empty ones.
        kept_a_mask: Kept expressions, over all masks.
        words: Words (separated by blanks) of kept expressions.
        scores: By column, over all candidates that have the score; a listener's only if the run had one.
        groups: By one of `GROUPS`, then by its value, the largest first.
        clauses: What is kept, of each sort of expression.
        top: The most frequent kept expressions.
        top_error: By how much a count of `top` may be too low.
        copies: How many images of all committed shards are copies of others.
    """

    num_planned_images: int
    num_shards_read: int
    warning: str | None
    copies: CopyCounts
    clauses: tuple[KeptClause, ...] = ()
    totals: RunTotals = field(default_factory=RunTotals)
    masks_an_image: Distribution = field(default_factory=Distribution)
    kept_a_mask: Distribution = field(default_factory=Distribution)
    words: Distribution = field(default_factory=Distribution)
    scores: dict[str, Distribution] = field(default_factory=lambda: {name: Distribution() for name in SCORE_COLUMNS})
    groups: Mapping[str, Mapping[str, KeptCount]] = field(default_factory=dict)
    top: Sequence[tuple[str, int]] = ()
    top_error: int = 0


def run_statistics(
    location: RunLocation,
    *,
    sample: int | None = DEFAULT_SAMPLE,
    num_top: int = 10,
    on_progress: OnProgress = lambda done, total: None,
) -> RunStatistics:
    """Return statistics of the committed shards; memory is bounded by a few shards, whatever the run's size.

    The run may be unfinished. The tables of `sample` shards are read, spread evenly; of all if it is None.
    """
    run, totals, texts = OpenRun.at(location), Totals(), TopTexts()
    chosen = spread_evenly(run.receipts.shards.tolist(), sample)
    groups: dict[str, dict[str, KeptCount]] = {name: {} for name in GROUPS}

    def read(shard: CommittedShard) -> tuple[int, Ints, pa.Table]:
        return shard.receipt.counts.masks, shard.num_masks(), shard.table(EXPRESSIONS, _COLUMNS)

    def shards() -> Iterator[CommittedShard]:
        for shard in run.shards():
            totals.add(shard.receipt)
            if shard.receipt.shard in chosen:
                yield shard

    facts = (run.header.num_images, len(chosen), run.header.warning, count_copies(run), kept_clauses(run.header))
    found = RunStatistics(*facts)
    for number, (num_masks, of_images, table) in enumerate(map_in_threads(read, shards(), _THREADS), start=1):
        kept = table.filter(table["kept"])
        found.masks_an_image.add(of_images)
        found.kept_a_mask.add(occurrences(pc.list_flatten(kept["target_mask_ids"]), num_masks))
        found.words.add(num_words(kept["text"]).to_numpy())
        for name, scores in found.scores.items():
            scores.add(table[name].cast(pa.float64()).to_numpy())
        by_source = table.group_by("source", use_threads=False).aggregate([("kept", "count"), ("kept", "sum")])
        counts = [("source", r["source"], KeptCount(r["kept_count"], r["kept_sum"])) for r in by_source.to_pylist()]
        for kind, count in count_draws(table).items():
            counts += [("decoder", kind.decoder, count), ("crop", kind.crop, count)]
        for group, value, count in counts:
            groups[group][value] = groups[group].get(value, KeptCount()) + count
        said = kept["text"].value_counts()
        texts.add(dict(zip(said.field(0).to_pylist(), said.field(1).to_pylist(), strict=True)))
        on_progress(number, len(chosen))
    found.totals, found.top, found.top_error = totals.sum(), texts.top(num_top), texts.error
    found.groups = {
        name: dict(sorted(values.items(), key=lambda item: (-item[1].counted, item[0])))
        for name, values in groups.items()
    }
    found.scores = {k: v for k, v in found.scores.items() if v.num_values or k not in OPTIONAL_COLUMNS}
    return found


def num_words(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return how many words, separated by blanks, each text has."""
    return pc.list_value_length(pc.utf8_split_whitespace(texts))
