"""Draws the pairs and images of an audit, and writes them with the record of the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pseudoris.audit.draw_record import DRAW_NAME, DrawnRun, DrawRecord, Population, Stratum, draw_bytes
from pseudoris.audit.population import OnShard, RunPairs, read_pairs
from pseudoris.audit.sample_rows import Ints, LoadBytes, Row, SampleRows, read_rows
from pseudoris.audit.sample_tables import (
    IMAGES_NAME,
    PAIRS_NAME,
    SAMPLE_SCHEMAS,
    sample_bytes,
)
from pseudoris.audit.strata import DrawnPairs, PairStratum, allocate, draw_pairs, make_strata
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PartRecord, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.keep_rule import stated_rule

DEFAULT_PAIRS: Final = 200
_LEAST_IMAGES: Final = 20
_IMAGES_SHARE: Final = 0.2
# Purposes of random draws: a stratum's number, or one of these.
_POSITIONS, _IMAGES = 10_000, 10_003


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """What is drawn.

    Attributes:
        num_pairs: Pairs to judge, follow-ups not counted.
        seed: The same run, options and seed give the same sample.
        unkept_share: Share of the pairs that the run does not keep. They cost the accuracy of the kept some width, and
            let the audit speak about other rules.
        num_images: Images that are asked for missed objects; None: a fifth of the pairs, at least 20.
    """

    num_pairs: int = DEFAULT_PAIRS
    seed: int = 0
    unkept_share: float = 0.15
    num_images: int | None = None

    def rng(self, purpose: int) -> np.random.Generator:
        """Return a generator of its own for each purpose, so that one option does not change another's draws."""
        return np.random.default_rng([self.seed, purpose])


@dataclass(frozen=True, slots=True)
class Draw:
    """What was written.

    Attributes:
        record: The record of the draw.
        num_follow_ups: Pairs that may be asked after another.
        unreadable: Pictures that could not be read, with the reason.
    """

    record: DrawRecord
    num_follow_ups: int
    unreadable: tuple[str, ...]


def draw_audit(
    location: RunLocation,
    header: RunHeader,
    audit: Path,
    options: DrawOptions,
    *,
    load_bytes: LoadBytes,
    on_shard: OnShard = lambda done, total: None,
) -> Draw:
    """Draw a sample of a run into the new folder `audit`.

    Raises:
        ConfigError: The folder holds anything or cannot be written, the run has nothing to judge, or none of
            its pictures can be read.
        TransientError: Storage failed.
    """
    _check_free(audit)
    pairs = read_pairs(location, header, on_shard)
    strata = make_strata(
        score=pairs.score,
        is_kept=pairs.is_kept,
        is_lone=pairs.is_lone,
        num_drawn=options.num_pairs,
        unkept_share=options.unkept_share,
    )
    drawn = [
        draw_pairs(each.pairs, pairs.image[each.pairs], each.num_drawn, options.rng(number))
        for number, each in enumerate(strata)
    ]
    numbers = np.concatenate([each.pairs for each in drawn])
    asked, image_strata = draw_images(pairs.image_masks, options)
    pictures = np.union1d(pairs.image[numbers], np.array(list(asked), np.int64))
    rows = read_rows(location, pairs, drawn=numbers, images=pictures, load_bytes=load_bytes)
    if len(rows.unreadable) == len(pictures):
        raise ConfigError(f"no picture of the run can be read. The first: {next(iter(rows.unreadable.values()))}")
    tables = {PAIRS_NAME: _pairs_table(rows, drawn, pairs, options), IMAGES_NAME: _images_table(rows, asked)}
    record = _record(location, header, pairs, options, strata, image_strata)
    record = _write(audit, record, tables)
    return Draw(record, len(rows.follow_ups), tuple(rows.unreadable.values()))


def _check_free(audit: Path) -> None:
    """Refuses a folder that holds anything but what a draw that was stopped left there."""
    if (audit / DRAW_NAME).exists():
        raise ConfigError(f"{audit} holds an audit already. Name another folder; its verdicts are worth keeping")
    if not audit.is_dir():
        return
    strange = sorted(each.name for each in audit.iterdir() if not each.name.startswith((".", *SAMPLE_SCHEMAS)))
    if strange:
        raise ConfigError(
            f"the folder {audit} holds other files, such as {strange[0]!r}. Name a new folder for the audit"
        )


def draw_images(image_masks: Ints, options: DrawOptions) -> tuple[dict[int, tuple[int, float]], list[Stratum]]:
    """Return stratum and probability of each image that is asked for missed objects, and the strata.

    Simple random samples of images without a mask, and of three bins by the number of masks: an image with few masks
    may have been searched badly, one with many has more to miss.

    Args:
        image_masks: (I,) masks of each image.
        options: How many, and the seed.
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


def _pairs_table(rows: SampleRows, drawn: Sequence[DrawnPairs], pairs: RunPairs, options: DrawOptions) -> pa.Table:
    keys: dict[int, float] = {}
    rng = options.rng(_POSITIONS)
    found: list[Row] = []
    for stratum, each in enumerate(drawn):
        # Spread over the whole order: any first part of it has its share of every stratum.
        spread = (np.arange(len(each.pairs)) + rng.random(len(each.pairs))) / max(len(each.pairs), 1)
        keys |= dict(zip(each.pairs.tolist(), spread.tolist(), strict=True))
        for number, first, second in zip(each.pairs.tolist(), each.first_stage, each.second_stage, strict=True):
            chance = {"first_stage": first, "second_stage": second, "inclusion": first * second}
            found.append({**rows.drawn[number], "stratum": stratum, **chance, "key": keys[number]})
    found.sort(key=lambda row: row["key"])
    follow = sorted(rows.follow_ups.items(), key=lambda item: -np.nan_to_num(pairs.score[item[0]]))
    ordered = [*found, *(row for _, row in follow)]
    return _table(PAIRS_NAME, [{**row, "position": position} for position, row in enumerate(ordered)])


def _images_table(rows: SampleRows, asked: dict[int, tuple[int, float]]) -> pa.Table:
    found = []
    for number, row in sorted(rows.images.items()):
        stratum, inclusion = asked.get(number, (None, None))
        found.append({**row, "is_asked_missed": number in asked, "stratum": stratum, "inclusion": inclusion})
    return _table(IMAGES_NAME, found)


def _table(name: str, found: Sequence[Row]) -> pa.Table:
    schema = SAMPLE_SCHEMAS[name]
    rows = [{name: row.get(name) for name in schema.names} for row in found]
    return pa.Table.from_pylist(rows, schema=schema)


def _record(
    location: RunLocation,
    header: RunHeader,
    pairs: RunPairs,
    options: DrawOptions,
    strata: Sequence[PairStratum],
    image_strata: Sequence[Stratum],
) -> DrawRecord:
    rule = stated_rule(header)
    return DrawRecord(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        run=DrawnRun(
            location=location.root,
            created_utc=header.created_utc,
            header_sha256=header.sha256,
            root_sha256=pairs.root_sha256,
            source=header.source,
            origin=header.origin,
            is_complete=len(pairs.receipts) == header.num_shards,
            rule=None if rule is None else str(rule),
        ),
        population=Population(
            images=len(pairs.image_row),
            masks=int(pairs.image_masks.sum()),
            masks_with_kept=pairs.num_masks_with_kept,
            pairs=len(pairs.row),
            kept=int(pairs.is_kept.sum()),
            without_target=pairs.num_without_target,
        ),
        seed=options.seed,
        score=pairs.score_kind,
        strata=tuple(_stratum(number, each, pairs) for number, each in enumerate(strata)),
        image_strata=tuple(image_strata),
        parts=(),
    )


def _stratum(number: int, each: PairStratum, pairs: RunPairs) -> Stratum:
    return Stratum(
        number=number,
        name=each.name,
        is_kept=each.is_kept,
        num_units=len(each.pairs),
        num_images=len(np.unique(pairs.image[each.pairs])),
        num_drawn=each.num_drawn,
    )


def _write(audit: Path, record: DrawRecord, tables: dict[str, pa.Table]) -> DrawRecord:
    """Write the tables, then the record that names them: a folder without it is no audit."""
    parts = []
    folder = RunLocation.open(str(audit))
    for name, table in tables.items():
        data = sample_bytes(table, name)
        folder.replace(name, data)
        parts.append(PartRecord(name=name, rows=table.num_rows, size_bytes=len(data), sha256=sha256_hex(data)))
    record, data = draw_bytes(record.model_copy(update={"parts": tuple(parts)}))
    if not folder.create_once(DRAW_NAME, data):
        raise ConfigError(f"another process has drawn into {audit} at the same time. Name another folder")
    folder.delete_temporary("")
    return record
