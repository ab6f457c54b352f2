"""Draws the pairs and images of an audit, and writes them with the record of the draw. For `cli/audit.py`, experiments.

A pair is a text with its target masks. A person judges whether the text fits these masks and no others.
The design, and why; `figures` relies on it:

- **Strata are bins of the pairs' own scores, by kind, kept and not kept apart.** Scores tell where errors are, so bins
  differ in accuracy, and an interval gets narrower. Pairs that the run does not keep have strata as well, so that the
  audit can answer for other rules of what is kept.
- **In a stratum, images are drawn, then pairs of the image.** Images are drawn with a probability proportional to the
  number of their pairs in the stratum, without replacement, systematically in a random order; of a drawn image one pair
  is drawn at random, or more if the image would be drawn more than once. So every pair of a stratum has the same
  probability, and an image with many pairs does not decide the outcome.
- A run that keeps composed expressions has its verdicts spent on kept pairs, most of them on texts of one mask: no rule
  brings back what was not composed, and absences are many and easy. The least sure texts of one mask get fewer verdicts
  each, because most errors are there: the rules that can be shown leave them out.
- Strata are drawn independently. An image may be drawn in two of them; that makes no interval too narrow, because they
  speak about different pairs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pseudoris.audit.draw_files import (
    DRAW_NAME,
    DRAWN,
    IMAGES_NAME,
    PAIRS_NAME,
    SAMPLE_SCHEMAS,
    WITHOUT_SCORE,
    DrawnPixels,
    DrawnRun,
    DrawRecord,
    Population,
    Stratum,
)
from pseudoris.audit.population import OnShard, Row, RunPairs, SampleRows, read_pairs, read_sample_rows
from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import parquet_bytes
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, ONE_MASK, Flags, Ints
from pseudoris.schemas.run_records import PartRecord
from pseudoris.store.runs.header import sealed
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.judged_expressions import stated_rule
from pseudoris.store.tables.open_run import OpenRun

DEFAULT_PAIRS: Final = 200
_LEAST_IMAGES: Final = 20
_IMAGES_SHARE: Final = 0.2
# A stratum gets at least this many draws, if it has as many pairs, because one draw shows no variance.
_LEAST_DRAWN: Final = 2
# A bin of scores gets about this many draws.
_DRAWN_PER_BIN: Final = 10
_MAX_BINS: Final = 8
# Of the pairs that the run does not keep, so many are drawn, unless it keeps composed ones.
_UNKEPT_SHARE: Final = 0.15
# Of the draws of what is kept, groups and absences get this share at most. It is about what their own bound needs: at
# 0.9 a search with half of the 5 % takes 36 verdicts, all of them right.
_OTHERS_SHARE: Final = 0.2
# So many of a run's composed texts of one mask are the least sure, and each is drawn so much less often than another.
# Chosen in development worlds: with as many verdicts for each, a rule was shown in a third of the audits where 0.92 of
# these texts are right, and in more than two thirds so. The whole run's accuracy gets an interval half as wide again;
# that of a run that is refiltered without them a narrower one.
_LEAST_SURE, _LEAST_SURE_RATE = 0.4, 0.3
_OF_ONE_MASK: Final = "one mask"
# These seed two draws: the positions of pairs, and the images. A stratum's draw has the stratum's number as its seed.
_POSITIONS, _IMAGES = 10_000, 10_003


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """What is drawn.

    Attributes:
        num_pairs: Pairs to judge, without follow-ups.
        unkept_share: Share of the pairs that the run does not keep. They cost the accuracy of the kept some width, and
            let the audit speak about other rules. None: 0.15, and 0 if the run keeps composed expressions.
        num_images: Images that are asked for missed objects; None: a fifth of the pairs, at least 20.
    """

    num_pairs: int = DEFAULT_PAIRS
    seed: int = 0
    unkept_share: float | None = None
    num_images: int | None = None

    def rng(self, purpose: int) -> np.random.Generator:
        """Return a generator of its own for each purpose, so that one option does not change another's draws."""
        return np.random.default_rng([self.seed, purpose])


@dataclass(frozen=True, slots=True)
class Draw:
    """What was written; `unreadable` has the reason for each picture that could not be read."""

    record: DrawRecord
    num_follow_ups: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PairStratum:
    """A stratum: its pairs, (M,) int64, and how many of them are drawn."""

    name: str
    is_kept: bool
    pairs: Ints
    num_drawn: int


@dataclass(frozen=True, eq=False)
class DrawnPairs:
    """D different pairs drawn from one stratum, in random order: (D,) int64, and their probabilities, (D,) float64.

    `first_stage` is the probability of the pair's image in this stratum, `second_stage` that of the pair in its image.
    """

    pairs: Ints
    first_stage: Floats
    second_stage: Floats


def draw_audit(
    run: OpenRun,
    audit: Path,
    options: DrawOptions,
    *,
    planned: PlannedImages,
    on_shard: OnShard = lambda done, total: None,
) -> Draw:
    """Draw a sample of a run into the new folder `audit`."""
    if (audit / DRAW_NAME).exists():
        raise ConfigError(f"{audit} holds an audit already. Name another folder; its verdicts are worth keeping")
    # An interrupted draw may have left files with these names, which are overwritten. Any other file is refused.
    left = (".", *SAMPLE_SCHEMAS)
    held = audit.iterdir() if audit.is_dir() else ()
    if strange := sorted(each.name for each in held if not each.name.startswith(left)):
        raise ConfigError(
            f"the folder {audit} holds other files, such as {strange[0]!r}. Name a new folder for the audit"
        )
    pairs = read_pairs(run, on_shard)
    parts: dict[str, Any] = {name: getattr(pairs, name) for name in ("score", "kind", "is_kept", "is_lone")}
    strata = make_strata(**parts, num_drawn=options.num_pairs, unkept_share=options.unkept_share)
    drawn = [
        draw_pairs(each.pairs, pairs.image[each.pairs], each.num_drawn, options.rng(number))
        for number, each in enumerate(strata)
    ]
    numbers = np.concatenate([each.pairs for each in drawn])
    asked, image_strata = draw_images(pairs.image_masks, options)
    pictures = np.union1d(pairs.image[numbers], np.array(list(asked), np.int64))
    rows = read_sample_rows(run, pairs, drawn=numbers, images=pictures, planned=planned)
    if len(rows.unreadable) == len(pictures):
        raise ConfigError(f"no picture of the run can be read. The first: {next(iter(rows.unreadable.values()))}")
    found = []
    for number, row in sorted(rows.images.items()):
        stratum, inclusion = asked.get(number, (None, None))
        found.append({**row, "is_asked_missed": number in asked, "stratum": stratum, "inclusion": inclusion})
    tables = {PAIRS_NAME: _pair_rows(rows, drawn, pairs, options), IMAGES_NAME: found}
    folder, written = RunLocation.open(str(audit)), list[PartRecord]()
    for name, schema in SAMPLE_SCHEMAS.items():
        data = parquet_bytes([pa.Table.from_pylist(tables[name], schema=schema)], schema)
        folder.replace(name, data)
        written.append(PartRecord(name=name, rows=len(tables[name]), size_bytes=len(data), sha256=sha256_hex(data)))
    # The record is written last, because a folder without it is no audit.
    record, data = sealed(_record(run, pairs, options.seed, strata, image_strata, written))
    if not folder.create_once(DRAW_NAME, data):
        raise ConfigError(f"another process has drawn into {audit} at the same time. Name another folder")
    folder.delete_temporary("")
    return Draw(record, len(rows.follow_ups), tuple(rows.unreadable.values()))


def make_strata(
    *,
    score: Floats,
    kind: npt.NDArray[np.str_],
    is_kept: Flags,
    is_lone: Flags,
    num_drawn: int,
    unkept_share: float | None,
) -> list[PairStratum]:
    """Return the strata of P pairs; together `num_drawn` are drawn of them, or all pairs if there are fewer.

    Arrays are (P,). A pair has a NaN `score` or one; composed texts of one mask, each other `kind` of `draw_kind`, and
    pairs of lone masks have strata of their own. `unkept_share` of the draws goes to pairs that the run does not keep;
    None as of `DrawOptions`.
    """
    if unkept_share is None:
        unkept_share = 0.0 if np.isin(kind[is_kept], COMPOSED_KINDS).any() else _UNKEPT_SHARE
    kind = np.where(np.isin(kind, ONE_MASK), _OF_ONE_MASK, kind)
    kept, unkept = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    for_unkept = min(round(num_drawn * unkept_share), len(unkept))
    for_kept = min(num_drawn - for_unkept, len(kept))
    for_unkept = min(num_drawn - for_kept, len(unkept))
    strata: list[PairStratum] = []
    for word, pairs, number in (("kept", kept, for_kept), ("not kept", unkept, for_unkept)):
        has_score, lone = ~np.isnan(score[pairs]), is_lone[pairs]
        of_kind = {name: (kind[pairs] == name) & has_score & ~lone for name in sorted(set(kind[pairs].tolist()))}
        parts = {**of_kind, "mask alone in its image": lone, WITHOUT_SCORE: ~has_score & ~lone}
        groups = [(name, pairs[chosen]) for name, chosen in parts.items() if chosen.any()]
        for (name, members), share in zip(groups, _shares(groups, number), strict=True):
            bins = [(name, members)]
            if name in of_kind:
                # Bins hold equally many pairs, from low to high scores, so pairs of equal score may be in two bins.
                number_of_bins = max(1, min(_MAX_BINS, share // _DRAWN_PER_BIN))
                cut = np.array_split(members[np.argsort(score[members], kind="stable")], number_of_bins)
                filled = [each for each in cut if len(each)]
                word_of = "score" if name == DRAWN else f"{name}, confidence"
                bins = [(f"{word_of} {score[each[0]]:.2f} to {score[each[-1]]:.2f}", each) for each in filled]
            # Bins come from the least sure to the surest.
            places = (np.arange(len(bins)) + 0.5) / len(bins)
            is_rare = (places < _LEAST_SURE) & (name == _OF_ONE_MASK)
            counts = allocate([len(each) for _, each in bins], share, np.where(is_rare, _LEAST_SURE_RATE, 1.0))
            strata += [
                PairStratum(f"{word}, {label}", word == "kept", each, count)
                for (label, each), count in zip(bins, counts, strict=True)
            ]
    return strata


def _shares(groups: Sequence[tuple[str, Ints]], number: int) -> list[int]:
    """Return how many of `number` each group gets, in proportion to its size but for `_OTHERS_SHARE`."""
    sizes = np.array([len(members) for _, members in groups], np.int64)
    is_other = np.array([name in COMPOSED_KINDS and name not in ONE_MASK for name, _ in groups], np.bool_)
    num_one, num_other = int(sizes[~is_other].sum()), int(sizes[is_other].sum())
    most = min(_OTHERS_SHARE, num_other / max(num_one + num_other, 1))
    for_others = min(max(round(number * most), number - num_one), num_other)
    counts = np.zeros(len(sizes), np.int64)
    counts[is_other] = allocate(sizes[is_other].tolist(), for_others)
    counts[~is_other] = allocate(sizes[~is_other].tolist(), number - for_others)
    return counts.tolist()


def allocate(sizes: Sequence[int], number: int, rates: Floats | None = None) -> list[int]:
    """Return how many are drawn of each stratum: proportional to its size, two of each if the number allows it.

    With `rates`, one for each stratum, they are proportional to size times rate.

    The sum is `number`, or that of all sizes if it is smaller; no stratum gives more than it has.
    """
    sizes = list(sizes)
    number = min(number, sum(sizes))
    floor = _LEAST_DRAWN if sum(min(size, _LEAST_DRAWN) for size in sizes) <= number else 0
    counts = [min(size, floor) for size in sizes]
    weights = np.array(sizes, np.float64) * (1.0 if rates is None else rates)
    wanted = number * weights / max(float(weights.sum()), 1.0)
    while sum(counts) < number:
        # The next draw goes to the stratum that is furthest below its proportional share.
        lacking = [
            want - count if count < size else -np.inf for want, count, size in zip(wanted, counts, sizes, strict=True)
        ]
        counts[int(np.argmax(lacking))] += 1
    return counts


def draw_pairs(pairs: Ints, images: Ints, number: int, rng: np.random.Generator) -> DrawnPairs:
    """Draw `number` of a stratum's M pairs, (M,), with the image of each: images first, then pairs in the image."""
    size = len(pairs)
    _, place, counts = np.unique(images, return_inverse=True, return_counts=True)
    # Images come in a random order, and so do the pairs of each image. So a step that is longer than an image's pairs
    # takes at most one of them.
    order = np.lexsort((rng.random(size), rng.random(len(counts))[place]))
    step = size / max(number, 1)
    taken = order[np.minimum((rng.random() * step + step * np.arange(number)).astype(np.int64), size - 1)]
    taken = rng.permutation(taken)
    inclusion = number / size
    first = np.minimum(1.0, inclusion * counts[place[taken]])
    return DrawnPairs(pairs[taken], first, inclusion / first)


def draw_images(image_masks: Ints, options: DrawOptions) -> tuple[dict[int, tuple[int, float]], list[Stratum]]:
    """Return stratum and probability of each image that is asked for missed objects, and the strata.

    Simple random samples of images without a mask, and of three bins by the number of masks, `image_masks` (I,): an
    image with few masks may have been searched badly, one with many has more to miss.
    """
    rng, order = options.rng(_IMAGES), np.argsort(image_masks, kind="stable")
    number = options.num_images
    if number is None:
        number = max(_LEAST_IMAGES, round(_IMAGES_SHARE * options.num_pairs))
    empty = int((image_masks == 0).sum())
    bins = [each for each in (order[:empty], *np.array_split(order[empty:], 3)) if len(each)]
    asked: dict[int, tuple[int, float]] = {}
    strata = []
    for stratum, (members, count) in enumerate(zip(bins, allocate([len(b) for b in bins], number), strict=True)):
        chosen = rng.choice(members, count, replace=False)
        asked |= {int(image): (stratum, count / len(members)) for image in chosen}
        low, high = (int(image_masks[members[at]]) for at in (0, -1))
        name = f"{low} masks" if low == high else f"{low} to {high} masks"
        strata.append(
            Stratum(number=stratum, name=name, num_units=len(members), num_images=len(members), num_drawn=count)
        )
    return asked, strata


def _pair_rows(rows: SampleRows, drawn: Sequence[DrawnPairs], pairs: RunPairs, options: DrawOptions) -> list[Row]:
    rng = options.rng(_POSITIONS)
    found: list[Row] = []
    for stratum, each in enumerate(drawn):
        # A stratum's pairs are spread evenly, so that the first n questions hold every stratum in proportion.
        spread = (np.arange(len(each.pairs)) + rng.random(len(each.pairs))) / max(len(each.pairs), 1)
        columns = (each.pairs.tolist(), spread.tolist(), each.first_stage, each.second_stage)
        for number, key, first, second in zip(*columns, strict=True):
            chance = {"first_stage": first, "second_stage": second, "inclusion": first * second}
            found.append({**rows.drawn[number], "stratum": stratum, **chance, "key": key})
    found.sort(key=lambda row: row["key"])
    follow = sorted(rows.follow_ups.items(), key=lambda item: -np.nan_to_num(pairs.score[item[0]]))
    ordered = [*found, *(row for _, row in follow)]
    return [{**row, "position": position} for position, row in enumerate(ordered)]


def _record(
    run: OpenRun, pairs: RunPairs, seed: int, strata: list[PairStratum], images: list[Stratum], parts: list[PartRecord]
) -> DrawRecord:
    header, rule = run.header, stated_rule(run.header)
    pixels = tuple(
        DrawnPixels(num_shards=each.num_shards, bits=each.config.images.bits, window=each.config.images.window)
        for each in header.combined or (header,)
    )
    of_pairs = [
        Stratum(
            number=number,
            name=each.name,
            is_kept=each.is_kept,
            num_units=len(each.pairs),
            num_images=len(np.unique(pairs.image[each.pairs])),
            num_drawn=each.num_drawn,
        )
        for number, each in enumerate(strata)
    ]
    return DrawRecord(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        run=DrawnRun(
            location=run.location.root,
            created_utc=header.created_utc,
            header_sha256=header.digest,
            root_sha256=pairs.root_sha256,
            source=without_secrets(header.source),
            origin=header.origin,
            is_complete=run.is_complete,
            rule=None if rule is None else str(rule),
            pixels=pixels if any({"bits", "window"} & each.model_dump().keys() for each in pixels) else (),
        ),
        population=Population(
            images=len(pairs.image_row),
            masks=int(pairs.image_masks.sum()),
            masks_with_kept=pairs.num_masks_with_kept,
            pairs=len(pairs.row),
            kept=int(pairs.is_kept.sum()),
        ),
        seed=seed,
        score=pairs.score_kind,
        strata=tuple(of_pairs),
        image_strata=tuple(images),
        parts=tuple(parts),
    )
