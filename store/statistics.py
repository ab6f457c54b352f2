"""Figures of a run for a person: totals from the receipts, distributions from a few columns of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.keeping import LISTENER_COLUMNS, SCORE_COLUMNS
from schemas.run import Receipt
from schemas.shard import SOURCE_MODEL
from schemas.tables import EXPRESSIONS, MASKS
from store.distributions import Distribution, TopTexts
from store.draws import count_draws
from store.header import require_header
from store.location import RunLocation
from store.manifest import cached_receipts
from store.reading import read_table
from store.receipts import list_receipts, spread_evenly
from store.threads import map_in_threads
from store.totals import RunTotals, Totals

# Shards of the presets hold 16 to 256 images: some 100,000 images tell a share to a tenth of a percent.
DEFAULT_SAMPLE: Final = 1_000
# What is counted in a group: a text that several draws gave counts for the decoder and the crop of each.
GROUPS: Final[Mapping[str, str]] = {"source": "candidates", "decoder": "draws", "crop": "draws"}

_THREADS: Final = 4
_COLUMNS: Final = ("target_mask_ids", "text", "kept", "source", "samples", *SCORE_COLUMNS)

# Shards looked into so far, shards to look into.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GroupCount:
    """Candidates of one source, or draws of one decoder or crop, and how many of them are kept."""

    counted: int
    kept: int

    @property
    def share(self) -> float:
        """Kept by counted."""
        return self.kept / self.counted


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """A run in figures. The totals are of all committed shards, the rest of those that were looked into.

    Attributes:
        totals: From the receipts.
        num_planned_images: In the plan.
        num_shards_read: How many shards' tables were looked into, spread evenly.
        masks_an_image: Over images that are not quarantined, empty ones included.
        kept_a_mask: Kept expressions, over all masks.
        words: Of kept expressions, between blanks.
        scores: By column, over all candidates that have the score; a listener's only where there was one.
        groups: By one of `GROUPS`, then by its value, the most first.
        top: The most frequent kept expressions.
        top_error: By how much a count of `top` may be too low.
    """

    totals: RunTotals
    num_planned_images: int
    num_shards_read: int
    masks_an_image: Distribution
    kept_a_mask: Distribution
    words: Distribution
    scores: Mapping[str, Distribution]
    groups: Mapping[str, Mapping[str, GroupCount]]
    top: Sequence[tuple[str, int]]
    top_error: int


def run_statistics(
    location: RunLocation,
    *,
    sample: int | None = DEFAULT_SAMPLE,
    num_top: int = 10,
    on_progress: OnProgress = lambda done, total: None,
) -> RunStatistics:
    """Return the figures of what is committed; memory is bounded by a few shards, whatever the run's size.

    Args:
        location: Where the run lives, finished or not.
        sample: Into how many shards' tables to look, spread evenly; None for all.
        num_top: How many of the most frequent expressions.
        on_progress: Called after each shard.

    Raises:
        ConfigError: No run was started there, or a part is missing.
        TransientError: Storage failed.
    """
    header = require_header(location)
    chosen = spread_evenly(list(list_receipts(location)), sample)
    totals = Totals()

    def receipts() -> Iterator[Receipt]:
        for receipt in cached_receipts(location):
            totals.add(receipt)
            if receipt.shard in chosen:
                yield receipt

    sums = _Sums()
    tables = map_in_threads(lambda receipt: _read(location, receipt), receipts(), _THREADS)
    for number, each in enumerate(tables, start=1):
        sums.add(each)
        on_progress(number, len(chosen))
    return RunStatistics(
        totals=totals.sum(),
        num_planned_images=header.num_images,
        num_shards_read=len(chosen),
        masks_an_image=sums.masks_an_image,
        kept_a_mask=sums.kept_a_mask,
        words=sums.words,
        scores={name: each for name, each in sums.scores.items() if each.num_values or name not in LISTENER_COLUMNS},
        groups={name: _by_size(counts) for name, counts in sums.groups.items()},
        top=sums.texts.top(num_top),
        top_error=sums.texts.error,
    )


@dataclass(frozen=True, slots=True)
class _ShardColumns:
    """What of a shard's tables the figures need, in memory."""

    receipt: Receipt
    image_of_mask: pa.ChunkedArray
    expressions: pa.Table


@dataclass(slots=True)
class _Sums:
    """Adds shards up."""

    masks_an_image: Distribution = field(default_factory=Distribution)
    kept_a_mask: Distribution = field(default_factory=Distribution)
    words: Distribution = field(default_factory=Distribution)
    scores: dict[str, Distribution] = field(default_factory=lambda: {name: Distribution() for name in SCORE_COLUMNS})
    # By group, then by its value and whether it is kept.
    groups: dict[str, Counter[tuple[str, bool]]] = field(default_factory=lambda: {name: Counter() for name in GROUPS})
    texts: TopTexts = field(default_factory=TopTexts)

    def add(self, shard: _ShardColumns) -> None:
        counts, table = shard.receipt.counts, shard.expressions
        kept = table.filter(table["kept"])
        self.masks_an_image.add(_occurrences(shard.image_of_mask, counts.annotated + counts.empty))
        self.kept_a_mask.add(_occurrences(pc.list_flatten(kept["target_mask_ids"]), counts.masks))
        self.words.add(num_words(kept["text"]).to_numpy())
        for name, scores in self.scores.items():
            scores.add(table[name].cast(pa.float64()).to_numpy())
        for row in table.group_by(["source", "kept"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
            # Tables of version 1 do not say it: models wrote them.
            self.groups["source"][row["source"] or SOURCE_MODEL, row["kept"]] += row["count_all"]
        for kind, count in count_draws(table).items():
            for name, value in (("decoder", kind.decoder), ("crop", kind.crop)):
                self.groups[name].update({(value, True): count.kept, (value, False): count.drawn - count.kept})
        found = kept["text"].value_counts()
        self.texts.add(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))


def num_words(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return how many words, between blanks, each text has."""
    return pc.list_value_length(pc.utf8_split_whitespace(texts))


def _read(location: RunLocation, receipt: Receipt) -> _ShardColumns:
    masks = read_table(location, MASKS, ("image_id",), [receipt])
    return _ShardColumns(receipt, masks["image_id"], read_table(location, EXPRESSIONS, _COLUMNS, [receipt]))


def _occurrences(ids: pa.ChunkedArray, num_ids: int) -> list[int]:
    """Return how often each of `num_ids` ids stands in the column; those that do not, 0 times."""
    found: list[int] = ids.value_counts().field(1).to_pylist()
    return found + [0] * max(num_ids - len(found), 0)


def _by_size(counts: Mapping[tuple[str, bool], int]) -> dict[str, GroupCount]:
    values = {value for value, _ in counts}
    groups = {
        value: GroupCount(counts.get((value, True), 0) + counts.get((value, False), 0), counts.get((value, True), 0))
        for value in values
    }
    return dict(sorted(groups.items(), key=lambda item: (-item[1].counted, item[0])))
