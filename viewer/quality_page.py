"""Counts a run's quality shard by shard, and writes it as a page of charts and tables. Called by `cli/gallery.py`.

Memory is bounded by `MAX_ROWS` rows. A run with more candidate expressions is read in part: whole shards, evenly spaced
over the run. The page says so. Totals and seconds come from all receipts in any case. Charts are inline SVG of
`store/reports/charts`; the page's only script is the theme's.

Two expressions are *near-duplicates* if the Jaccard index of their word sets is at least `MIN_JACCARD`. Of one mask
they are redundant; of two masks of an image they are ambiguous. A word set holds the words in lower case, each once and
in no order, without articles and the frame of a caption (`a photo of`): `the red star` and `an image of a star, red`
have the same one.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.reports.charts import curves, histogram, round_ticks, share_bar, stacked_bar
from pseudoris.store.reports.statistics import DrawKind, KeptCount, count_draws, num_words
from pseudoris.store.runs.copied_pictures import CopyCounts, count_copies
from pseudoris.store.tables.judged_expressions import flags_of, floats_of
from pseudoris.store.tables.open_run import CommittedShard, OpenRun
from pseudoris.store.tables.parts import chosen_schema
from pseudoris.viewer.gallery_page import INDEX_NAME, QUALITY_NAME
from pseudoris.viewer.gallery_sample import GallerySummary, choose_shards
from pseudoris.viewer.pages import iter_page

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
    """The curve of distinct words over expressions; keeps the words, and a number for each expression."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._counts = array("I", [0])

    def add(self, texts: Iterable[str]) -> None:
        """Read expressions, in order."""
        for text in texts:
            self._words.update(_words_of(text))
            self._counts.append(len(self._words))

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """Pairs (expressions read, distinct words among them), ascending, from (0, 0) to the last expression."""
        last = len(self._counts) - 1
        # The least power of two with which `_MAX_POINTS` steps pass the last expression.
        step = 1 << (last // _MAX_POINTS).bit_length()
        return tuple((number, self._counts[number]) for number in sorted({*range(0, last, step), last}))

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
        copies: How many images of all committed shards are copies of others.
        masks_per_image: Images by their number of masks; without quarantined ones.
        lengths: Candidates by their number of words; `kept_lengths` of kept ones.
        scores: By name, float32 of each candidate that has the score, and whether it was kept.
        all_words: Growth of the vocabulary over candidates, in the tables' order; `kept_words` over kept ones.
        texts: Kept expressions by text; `nouns` by head noun.
    """

    summary: GallerySummary
    num_shards: int
    num_read: int
    copies: CopyCounts
    masks_per_image: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    kept_lengths: Counter[int] = field(default_factory=Counter)
    scores: dict[str, tuple[Floats, Bools]] = field(default_factory=dict)
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
    run: OpenRun, summary: GallerySummary, *, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> RunQuality:
    """Return the figures of a run, which may still be going on.

    `summary` is the gallery's, so that both pages agree; at most `MAX_ROWS` candidate expressions are read. `on_shard`
    gets the number of shards read so far, and that of all to read.
    """
    chosen = choose_shards(np.array([each.counts.expressions for each in run.receipts], np.int64), MAX_ROWS)
    quality = RunQuality(summary, len(run.receipts), len(chosen), count_copies(run))
    columns = ("kept", *SCORES)
    tables = [chosen_schema(EXPRESSIONS, columns).empty_table()]
    for done, place in enumerate(chosen, start=1):
        tables.append(quality.add(run.shard(place)).select(columns))
        on_shard(done, len(chosen))
    scored = pa.concat_tables(tables)
    for name in SCORES:
        found = floats_of(scored[name]).astype(np.float32)
        quality.scores[name] = found[np.isfinite(found)], flags_of(scored["kept"])[np.isfinite(found)]
    return quality


_NUM_BINS: Final = 48
_MAX_BARS: Final = 40
_NUM_COMMON: Final = 20
_HEAT_LEVELS: Final = 10
# Scores beyond these quantiles join the outermost bars. Otherwise all other scores would fill only a few bars.
_QUANTILES: Final = (0.005, 0.995)
_MAX_LABELS: Final = 9


def iter_quality(quality: RunQuality) -> Iterator[str]:
    """Yield the page's text piece by piece."""
    rule = quality.summary.rule
    tau = rule.tau if rule else None
    images, seconds = quality.summary.images, quality.summary.seconds
    content: dict[str, Any] = {
        "summary": quality.summary,
        "quality": quality,
        "masks_chart": _counts_chart(quality.masks_per_image, quality.masks_per_image, "image", "mask"),
        "mean_masks": _mean(quality.masks_per_image),
        "lengths_chart": _counts_chart(quality.lengths, quality.kept_lengths, "expression", "word"),
        "mean_length": _mean(quality.lengths),
        "mean_kept_length": _mean(quality.kept_lengths),
        "score_charts": [
            (
                name,
                _score_chart(quality, name, tau if name == "distinctiveness" else None),
                float(np.median(scores)) if scores.size else None,
            )
            for name, (scores, _) in quality.scores.items()
        ],
        "heat": _heat(quality),
        "growth_chart": curves(
            {"all candidates": quality.all_words.points, "kept": quality.kept_words.points},
            title="distinct words, by number of expressions read",
            unit="expressions",
        ),
        "texts": _common(quality.texts),
        "nouns": _common(quality.nouns),
        # Each row has a stage, its seconds, its milliseconds per image, and its images per second.
        "stages": [
            (stage, each, 1000 * each / images if images else 0.0, images / each if each else None)
            for stage, each in seconds.items()
        ],
        "stage_bar": stacked_bar(seconds, title="share of the seconds by stage"),
        "rules": {"min_jaccard": MIN_JACCARD, "max_compared": MAX_COMPARED, "frame": sorted(FRAME_WORDS)},
        "share_bar": share_bar,
        "index_name": INDEX_NAME,
        "quality_name": QUALITY_NAME,
    }
    yield from iter_page("quality.html.j2", content, styles=("base", "quality"), scripts=())


def _mean(counts: Mapping[int, int]) -> float | None:
    total = sum(counts.values())
    return sum(value * count for value, count in counts.items()) / total if total else None


def _counts_chart(whole: Mapping[int, int], part: Mapping[int, int], thing: str, unit: str) -> Markup | None:
    """Return one bar for each number; numbers beyond the last bar count in it."""
    if not whole:
        return None
    last = min(max(whole), max(_MAX_BARS, min(whole)))
    bars, names = [], []
    for value in range(min(whole), last + 1):
        is_rest = value == last and max(whole) > last
        all_of = sum(count for each, count in whole.items() if each == value or (is_rest and each > value))
        part_of = sum(count for each, count in part.items() if each == value or (is_rest and each > value))
        name = f"{value}{'+' if is_rest else ''}"
        hint = f"{name} {unit}{'' if name == '1' else 's'}: {all_of:,} {thing}{'' if all_of == 1 else 's'}"
        hint += "" if whole is part else f", {part_of:,} kept"
        bars.append((all_of, part_of, hint))
        names.append(name)
    # Each label is below the middle of its bar. If there are many bars, only every nth bar has a label.
    step = max(1, -(-len(names) // _MAX_LABELS))
    labels = [((place + 0.5) / len(names), names[place]) for place in range(0, len(names), step)]
    return histogram(bars, title=f"{thing}s by their number of {unit}s", labels=labels)


def _score_chart(quality: RunQuality, name: str, tau: float | None) -> Markup | None:
    scores, kept = quality.scores[name]
    if not scores.size:
        return None
    low, high = (float(each) for each in np.quantile(scores, _QUANTILES))
    if tau is not None:
        low, high = min(low, tau), max(high, tau)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _NUM_BINS + 1)
    inside = np.clip(scores.astype(np.float64), low, high)
    whole, part = np.histogram(inside, edges)[0].tolist(), np.histogram(inside[kept], edges)[0].tolist()
    names = [f"{start:.3g} to {end:.3g}" for start, end in pairwise(edges)]
    if scores.min() < low:
        names[0] = f"below {edges[1]:.3g}"
    if scores.max() > high:
        names[-1] = f"{edges[-2]:.3g} and above"
    bars = [
        (n, k, f"{each}: {n:,} expression{'' if n == 1 else 's'}, {k:,} kept")
        for each, n, k in zip(names, whole, part, strict=True)
    ]
    labels = [((tick - low) / (high - low), f"{tick:.3g}") for tick in round_ticks(low, high)]
    marker = None if tau is None else ((tau - low) / (high - low), f"τ = {tau:g}")
    return histogram(bars, title=f"expressions by {name}", labels=labels, marker=marker)


def _heat(quality: RunQuality) -> dict[str, Any]:
    """Return the table of shares kept, a row per decoder and a column per crop, with the row and the column of all."""
    draws = quality.draws
    crops = sorted({kind.crop for kind in draws}, key=lambda crop: (crop != "masked", crop))
    # Decoders without a setting come first, because None cannot be compared with a number.
    decoders = sorted(
        {(kind.decoder, kind.setting) for kind in draws}, key=lambda each: (each[0], each[1] is not None, each[1] or 0)
    )
    shares = [count.share for count in draws.values() if count.counted]
    low, high = min(shares, default=0.0), max(shares, default=1.0)

    def at(decoder: tuple[str, float | None] | None, crop: str | None) -> dict[str, Any]:
        chosen = (
            count
            for kind, count in draws.items()
            if decoder in (None, (kind.decoder, kind.setting)) and crop in (None, kind.crop)
        )
        count = sum(chosen, KeptCount())
        share = count.share if count.counted else None
        # The share of several kinds together is between those of its kinds.
        level = 0 if share is None else round(_HEAT_LEVELS * (share - low) / (high - low or 1.0))
        return {"drawn": count.counted, "kept": count.kept, "share": share, "level": level}

    names = [decoder.replace("_", "-") + ("" if setting is None else f" {setting:g}") for decoder, setting in decoders]
    return {
        "crops": [crop.replace("context_", "context ×") for crop in crops],
        "rows": [
            (name, [at(each, crop) for crop in crops], at(each, None))
            for name, each in zip(names, decoders, strict=True)
        ],
        "all": ([at(None, crop) for crop in crops], at(None, None)),
    }


def _common(counts: Mapping[str, int]) -> list[tuple[str, int, float, float]]:
    """Return text, count, share of all, and count over the largest; equal counts in the order of the text."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NUM_COMMON]
    return [(text, count, count / total, count / ranked[0][1]) for text, count in ranked]
