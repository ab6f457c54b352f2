"""Counts what the quality page shows of a run, shard by shard. Called by `cli/gallery.py` and `quality_page.py`.

Memory is bounded by `MAX_ROWS` rows. A run with more candidate expressions is read in part: whole shards, evenly spaced
over the run. The page says so. Totals and seconds come from all receipts in any case.

Two expressions are *near-duplicates* if the Jaccard index of their word sets is at least `MIN_JACCARD`. Of one mask
they are redundant; of two masks of an image they are ambiguous. A word set holds the words in lower case, each once and
in no order, without articles and the frame of a caption (`a photo of`): `the red star` and `an image of a star, red`
have the same one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.reports.statistics import DrawKind, KeptCount, count_draws, num_words
from pseudoris.store.tables.judged_expressions import flags_of, floats_of
from pseudoris.store.tables.open_run import CommittedShard, OpenRun
from pseudoris.store.tables.parts import chosen_schema
from pseudoris.viewer.gallery_sample import GallerySummary, choose_shards

# At most this many candidate expressions are read: 1,500 images of ten masks under the paper's settings, half a minute
# on one core (measured on the demo's run: 7,125 in 0.3 s). Memory holds some hundred bytes of each.
MAX_ROWS: Final = 500_000
SCORES: Final = ("distinctiveness", "uniqueness", "correctness")
_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "head_noun", "kept", "samples", *SCORES)

MIN_JACCARD: Final = 0.8
# At most this many expressions of an image are compared in pairs: about 20,000 pairs.
MAX_COMPARED: Final = 200
# When this many word sets are remembered, no new one is added, so later sets that repeat are not counted as repeats.
MAX_REMEMBERED: Final = 2_000_000
FRAME_WORDS: Final = frozenset({"a", "an", "the", "of", "photo", "picture", "image"})
_MAX_POINTS: Final = 256
# No slope is fitted to fewer points than this, because the slope would not be reliable.
_MIN_FITTED: Final = 8
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
# `Spoken` is an expression: its target masks and its text.
Spoken = tuple[tuple[str, ...], str]
# This callback gets the number of shards read so far, and the number of all shards.
OnShard = Callable[[int, int], None]


def word_set(text: str) -> frozenset[str]:
    """Return the words that distinguish an expression; all words if it has only the frame."""
    words = frozenset(_words_of(text))
    return words - FRAME_WORDS or words


def _words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@dataclass(slots=True)
class Duplicates:
    """Counts near-duplicates among kept expressions, image by image; remembers one number a distinct word set.

    Attributes:
        compared: Expressions that were compared with the others of their image; `left_out` beyond `MAX_COMPARED`.
        same_mask: Compared ones with a near-duplicate of the same mask; `other_mask`, of another mask of the image.
        seen_before: Expressions whose word set an earlier image had, out of `counted` ones.
    """

    compared: int = 0
    left_out: int = 0
    same_mask: int = 0
    other_mask: int = 0
    seen_before: int = 0
    counted: int = 0
    _seen: set[int] = field(default_factory=set, repr=False, compare=False)

    def add_image(self, spoken: Iterable[Spoken]) -> None:
        """Count the kept expressions of one image."""
        sets = [(targets, word_set(text)) for targets, text in spoken]
        compared = sets[:MAX_COMPARED]
        same, other = [False] * len(compared), [False] * len(compared)
        for (i, (targets, words)), (j, (other_targets, other_words)) in combinations(enumerate(compared), 2):
            # The Jaccard index is at most the ratio of the smaller size to the larger one, so sizes are tested first.
            small, large = sorted((len(words), len(other_words)))
            shared, union = len(words & other_words), len(words | other_words)
            # Two empty sets count as equal.
            if small < MIN_JACCARD * large or (union and shared / union < MIN_JACCARD):
                continue
            found = same if targets == other_targets else other
            found[i] = found[j] = True
        self.compared += len(compared)
        self.left_out += len(sets) - len(compared)
        self.same_mask += sum(same)
        self.other_mask += sum(other)
        # Only hashes of 64 bits are kept. Two of two million sets share a hash with a chance of one in ten million.
        hashes = [hash(words) for _, words in sets]
        self.counted += len(hashes)
        self.seen_before += sum(each in self._seen for each in hashes)
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.update(hashes)


class Growth:
    """The curve of distinct words over expressions; keeps the words, and a few hundred points."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._num_read = 0
        self._points = [(0, 0)]
        self._step = 1

    def add(self, texts: Iterable[str]) -> None:
        """Read expressions, in order."""
        for text in texts:
            self._words.update(_words_of(text))
            self._num_read += 1
            if self._num_read % self._step == 0:
                self._points.append((self._num_read, len(self._words)))
                if len(self._points) > _MAX_POINTS:
                    # The number of points is not known in advance. If there are too many, half of them are dropped.
                    self._points = self._points[::2]
                    self._step *= 2

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """Pairs (expressions read, distinct words among them), ascending, from (0, 0) to the last expression."""
        last = (self._num_read, self.num_words)
        return (*self._points, last) if self._points[-1] != last else tuple(self._points)

    @property
    def num_words(self) -> int:
        """Distinct words in all."""
        return len(self._words)

    @property
    def heaps_exponent(self) -> float | None:
        """β of words = K · expressions^β, by least squares on the logarithms; None for too few points.

        Near 0 the vocabulary is used up, and at 0.5 it grows as a natural text's does.
        """
        seen = np.array([point for point in self.points if min(point) > 0], dtype=np.float64)
        if len(seen) < _MIN_FITTED:
            return None
        logs = np.log(seen)
        return float(np.polynomial.polynomial.polyfit(logs[:, 0], logs[:, 1], 1)[1])


@dataclass(slots=True)
class RunQuality:
    """What the quality page shows.

    Attributes:
        num_shards: Committed shards.
        num_read: Of these, those that the rest was counted in.
        masks_per_image: Images by their number of masks; without quarantined ones.
        lengths: Candidates by their number of words; `kept_lengths` of kept ones.
        scores: By name, float32 of each candidate that has the score; `is_kept` says whether it was kept.
        all_words: Growth of the vocabulary over candidates, in the tables' order; `kept_words` over kept ones.
        texts: Kept expressions by text; `nouns` by head noun.
    """

    summary: GallerySummary
    num_shards: int
    num_read: int
    masks_per_image: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    kept_lengths: Counter[int] = field(default_factory=Counter)
    scores: dict[str, Floats] = field(default_factory=dict)
    is_kept: dict[str, Bools] = field(default_factory=dict)
    draws: dict[DrawKind, KeptCount] = field(default_factory=dict)
    all_words: Growth = field(default_factory=Growth)
    kept_words: Growth = field(default_factory=Growth)
    texts: Counter[str] = field(default_factory=Counter)
    nouns: Counter[str] = field(default_factory=Counter)
    duplicates: Duplicates = field(default_factory=Duplicates)

    def add(self, shard: CommittedShard) -> pa.Table:
        """Count a shard, all but its scores; return its table of expressions."""
        self.masks_per_image.update(shard.num_masks().tolist())
        table = shard.table(EXPRESSIONS, _COLUMNS)
        kept = table.filter(table["kept"])
        for of_length, rows in ((self.lengths, table), (self.kept_lengths, kept)):
            of_length.update(num_words(rows["text"]).to_pylist())
        for kind, count in count_draws(table).items():
            self.draws[kind] = self.draws.get(kind, KeptCount()) + count
        self.all_words.add(table["text"].to_pylist())
        texts = kept["text"].to_pylist()
        self.kept_words.add(texts)
        self.texts.update(texts)
        self.nouns.update(noun for noun in kept["head_noun"].to_pylist() if noun)
        of_image: defaultdict[str, list[Spoken]] = defaultdict(list)
        columns = (kept["image_id"].to_pylist(), kept["target_mask_ids"].to_pylist(), texts)
        for image, targets, text in zip(*columns, strict=True):
            of_image[image].append((tuple(targets), text))
        for spoken in of_image.values():
            self.duplicates.add_image(spoken)
        return table


def quality_of_run(
    run: OpenRun, summary: GallerySummary, *, on_shard: OnShard = lambda done, total: None
) -> RunQuality:
    """Return the figures of a run, which may still be going on.

    `summary` is the gallery's, so that both pages agree; at most `MAX_ROWS` candidate expressions are read.
    """
    chosen = choose_shards(np.array([each.counts.expressions for each in run.receipts], np.int64), MAX_ROWS)
    quality = RunQuality(summary, len(run.receipts), len(chosen))
    columns = ("kept", *SCORES)
    tables = [chosen_schema(EXPRESSIONS, columns).empty_table()]
    for done, place in enumerate(chosen, start=1):
        tables.append(quality.add(run.shard(place)).select(columns))
        on_shard(done, len(chosen))
    scored = pa.concat_tables(tables)
    for name in SCORES:
        found = floats_of(scored[name]).astype(np.float32)
        quality.scores[name] = found[np.isfinite(found)]
        quality.is_kept[name] = flags_of(scored["kept"])[np.isfinite(found)]
    return quality
