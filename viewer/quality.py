"""A run's expressions in figures, read shard by shard: memory is bounded by `MAX_ROWS` rows for runs of any size.

A run with more candidate expressions is read in part: whole shards, evenly spaced over the run. The page says so.
Totals and seconds come from all receipts in any case.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.statistics import DrawCount, DrawKind, count_draws, num_words
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.viewer.gallery_model import GallerySummary
from pseudoris.viewer.gallery_sample import read_summary
from pseudoris.viewer.shard_choice import CommittedShards, choose_shards
from pseudoris.viewer.text_variety import DuplicateCounter, Duplicates, Growth, VocabularyGrowth

# Candidate expressions read at most: 1,500 images of ten masks under the paper's settings, half a minute on one core
# (measured on the demo's run: 7,125 in 0.3 s). Their distinct texts and scores are held in memory, some hundred bytes
# each.
MAX_ROWS: Final = 500_000
SCORES: Final = ("distinctiveness", "uniqueness", "correctness")
_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "head_noun", "kept", "samples", *SCORES)

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
# Called with how many shards are read, and of how many.
OnShard = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RunQuality:
    """What the quality page shows.

    Attributes:
        summary: Summary of the whole run.
        num_shards: Committed.
        num_read: Shards that the rest was counted in.
        masks_per_image: Images by their number of masks; without quarantined ones.
        lengths: Candidates by their number of words.
        kept_lengths: Kept ones by their number of words.
        scores: By name, float32 of each candidate that has the score.
        is_kept: By name, whether that candidate was kept.
        draws: By decoder with its setting, and crop.
        all_words: Growth of the vocabulary over candidates, in the tables' order.
        kept_words: The same over kept ones.
        texts: Kept expressions by text.
        nouns: Kept expressions by head noun.
        duplicates: Near-duplicates among kept expressions.
    """

    summary: GallerySummary
    num_shards: int
    num_read: int
    masks_per_image: Mapping[int, int]
    lengths: Mapping[int, int]
    kept_lengths: Mapping[int, int]
    scores: Mapping[str, Floats]
    is_kept: Mapping[str, Bools]
    draws: Mapping[DrawKind, DrawCount]
    all_words: Growth
    kept_words: Growth
    texts: Counter[str]
    nouns: Counter[str]
    duplicates: Duplicates


def quality_of_run(
    location: RunLocation,
    *,
    summary: GallerySummary | None = None,
    max_rows: int = MAX_ROWS,
    on_shard: OnShard = lambda done, total: None,
) -> RunQuality:
    """Return the figures of a run, which may still be going on.

    Args:
        location: Where the run lives.
        summary: The gallery's summary, so that both pages agree; read here by default.
        max_rows: Candidate expressions read at most.
        on_shard: Called after each shard.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
    """
    summary = summary or read_summary(location)
    shards = CommittedShards.of(location)
    chosen = choose_shards(shards.expressions, max_rows)
    counts = _Counts()
    for done, receipt in enumerate(shards.receipts(location, chosen), start=1):
        counts.add(location, receipt)
        on_shard(done, len(chosen))
    return counts.quality(summary, num_shards=len(shards), num_read=len(chosen))


@dataclass(slots=True)
class _Counts:
    """Adds shards up."""

    masks_per_image: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    kept_lengths: Counter[int] = field(default_factory=Counter)
    scores: dict[str, list[Floats]] = field(default_factory=lambda: {name: [] for name in SCORES})
    is_kept: dict[str, list[Bools]] = field(default_factory=lambda: {name: [] for name in SCORES})
    draws: dict[DrawKind, DrawCount] = field(default_factory=dict)
    all_words: VocabularyGrowth = field(default_factory=VocabularyGrowth)
    kept_words: VocabularyGrowth = field(default_factory=VocabularyGrowth)
    texts: Counter[str] = field(default_factory=Counter)
    nouns: Counter[str] = field(default_factory=Counter)
    duplicates: DuplicateCounter = field(default_factory=DuplicateCounter)

    def add(self, location: RunLocation, receipt: Receipt) -> None:
        images = read_table(location, IMAGES, ("image_id", "status"), [receipt])
        masks = read_table(location, MASKS, ("image_id",), [receipt])
        self._add_masks(images, masks)
        table = read_table(location, EXPRESSIONS, _COLUMNS, [receipt])
        kept = table.filter(table["kept"])
        for of_length, rows in ((self.lengths, table), (self.kept_lengths, kept)):
            of_length.update(num_words(rows["text"]).to_pylist())
        self._add_scores(table)
        for kind, count in count_draws(table).items():
            self.draws[kind] = self.draws.get(kind, DrawCount()) + count
        self.all_words.add(table["text"].to_pylist())
        self._add_kept(kept)

    def _add_masks(self, images: pa.Table, masks: pa.Table) -> None:
        shown = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED))["image_id"].to_pylist()
        of_image = Counter(masks["image_id"].to_pylist())
        self.masks_per_image.update(of_image[image] for image in shown)

    def _add_scores(self, table: pa.Table) -> None:
        for name in SCORES:
            has_score = pc.is_valid(table[name])
            scores = pc.filter(table[name], has_score).to_numpy().astype(np.float32)
            kept = pc.filter(table["kept"], has_score).to_numpy()
            is_finite = np.isfinite(scores)
            self.scores[name].append(scores[is_finite])
            self.is_kept[name].append(kept[is_finite])

    def _add_kept(self, kept: pa.Table) -> None:
        texts = kept["text"].to_pylist()
        self.kept_words.add(texts)
        self.texts.update(texts)
        self.nouns.update(noun for noun in kept["head_noun"].to_pylist() if noun)
        of_image: defaultdict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        columns = (kept["image_id"].to_pylist(), kept["target_mask_ids"].to_pylist(), texts)
        for image, targets, text in zip(*columns, strict=True):
            of_image[image].append((tuple(targets), text))
        for spoken in of_image.values():
            self.duplicates.add_image(spoken)

    def quality(self, summary: GallerySummary, *, num_shards: int, num_read: int) -> RunQuality:
        return RunQuality(
            summary=summary,
            num_shards=num_shards,
            num_read=num_read,
            masks_per_image=self.masks_per_image,
            lengths=self.lengths,
            kept_lengths=self.kept_lengths,
            scores={name: _joined(some, np.float32) for name, some in self.scores.items()},
            is_kept={name: _joined(some, np.bool_) for name, some in self.is_kept.items()},
            draws=self.draws,
            all_words=self.all_words.growth(),
            kept_words=self.kept_words.growth(),
            texts=self.texts,
            nouns=self.nouns,
            duplicates=self.duplicates.counts(),
        )


def decoder_name(decoder: str, setting: float | None) -> str:
    """Return a decoder with its setting, `top-p 0.4`."""
    name = decoder.replace("_", "-")
    return name if setting is None else f"{name} {setting:g}"


def _joined(parts: Iterable[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *parts])
