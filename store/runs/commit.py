"""Commits a shard: parts first, then the receipt, created once. Safe to repeat, to kill, and to run twice at once.

Called by `pipeline/shard_tasks`, `sessions` and imports. A retry commits generation g+1: generation g with the rows
of the retried images replaced. A new receipt vouches for its parts, so stored rows are copied only if their digest
holds.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.ids import part_name, sha256_hex
from pseudoris.schemas.run_records import COUNTED_BY_NAME, PartRecord, Receipt, ShardCounts
from pseudoris.schemas.shard import Failure, Shard, ShardImage, emptied_by
from pseudoris.schemas.tables import FAILURES, SCHEMAS
from pseudoris.store.runs.header import sealed
from pseudoris.store.runs.pending_work import is_retried
from pseudoris.store.runs.receipts import part_path, read_receipt, receipt_path
from pseudoris.store.tables.parts import read_part, read_whole, restore_parts
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a receipt records besides the shard's content; the fields are those of `Receipt`."""

    attempts: Mapping[str, int] = field(default_factory=dict)
    degraded: Mapping[str, int | str] = field(default_factory=dict)
    mixed: tuple[str, ...] = ()
    header_sha256: str | None = None
    source: str | None = None


NOWHERE: Final = Provenance()


def commit_shard(
    location: RunLocation,
    shard: Shard,
    *,
    planned_ids: Sequence[str],
    embed_images: bool,
    provenance: Provenance = NOWHERE,
    is_repair: bool = False,
) -> Receipt:
    """Write the shard's parts and create its receipt; return it, or that of the writer that committed first.

    `shard` has passed the last stage and has all of its images, `planned_ids` in the plan's order. `is_repair` is as in
    `commit_parts`. ValueError if the shard's ids differ from the plan's: the engine split, merged or reordered a block.
    """
    _check_ids(shard, planned_ids)
    tables = shard_tables(shard, embed_images=embed_images)
    contents = {name: table_bytes(table) for name, table in tables.items()}
    counts = ShardCounts(**table_counts(tables))
    return commit_parts(location, contents, make_receipt(shard, contents, counts, provenance), is_repair=is_repair)


def commit_parts(
    location: RunLocation, contents: Mapping[str, bytes], receipt: Receipt, *, is_repair: bool = False
) -> Receipt:
    """Write the parts of `contents` by table, then create the `receipt` that names them; return as `commit_shard`.

    With `is_repair`, the damaged parts of a receipt that stands are written again (`restore_parts`).
    """
    # The receipt is checked first, so that a late writer with other bytes leaves no parts behind.
    existing = read_receipt(location, receipt.shard, receipt.generation)
    if existing is not None and is_repair:
        restore_parts(location, existing, contents)
        receipt = existing
    if existing is None:
        for table, data in contents.items():
            location.put_part(part_path(table, receipt.parts[table]), data)
        receipt, data = sealed(receipt)
        if location.create_once(receipt_path(receipt.shard, receipt.generation), data):
            _look_again(location, receipt)
            return receipt
        # The receipt exists: another writer was first, or our request arrived twice. The receipt's content shows which.
        existing = read_receipt(location, receipt.shard, receipt.generation)
    if existing is None:
        uri = location.uri(receipt_path(receipt.shard, receipt.generation))
        raise TransientError(f"cannot create {uri}: it exists already, but cannot be read back. Commit it again")
    if others := [table for table, part in receipt.parts.items() if part != existing.parts[table]]:
        logger.warning(
            "Another writer committed shard %d generation %d first, with other bytes in %s. Its parts are used.",
            receipt.shard,
            receipt.generation,
            ", ".join(others),
        )
    # Delete parts that do not count: the run's last garbage collection may be over. The collection after a retry
    # deleted the parts of earlier generations, and this writer may have written them again.
    is_superseded = read_receipt(location, receipt.shard, receipt.generation + 1) is not None
    for table, part in receipt.parts.items():
        if is_superseded or part != existing.parts[table]:
            location.delete(part_path(table, part))
    return existing


def _look_again(location: RunLocation, receipt: Receipt) -> None:
    """Say which parts of a new receipt are gone: gc takes those of a writer that stood still for garbage."""
    paths = [part_path(table, part) for table, part in receipt.parts.items()]
    if gone := [path for path in paths if not location.exists(path)]:
        logger.warning(
            "%s: deleted before shard %d was committed: this writer stood still. Run the same command with --repair.",
            ", ".join(map(location.uri, gone)),
            receipt.shard,
        )


def _check_ids(shard: Shard, planned_ids: Sequence[str]) -> None:
    got = [image.image_id for image in shard.images]
    if got == list(planned_ids):
        return
    missing = sorted(set(planned_ids) - set(got))
    extra = sorted(set(got) - set(planned_ids))
    detail = f"missing {missing[:3]}, not planned {extra[:3]}" if missing or extra else "another order or a repeated id"
    raise ValueError(
        f"shard {shard.shard} holds {len(got)} images, the plan {len(planned_ids)}: {detail}. "
        "A block must be exactly one shard, so nothing is committed"
    )


def make_receipt(
    shard: Shard, contents: Mapping[str, bytes], counts: ShardCounts, provenance: Provenance = NOWHERE
) -> Receipt:
    """Return the receipt of `contents`, the bytes of the parts by table, with `counts`; nothing is written."""
    rows = {
        "images": counts.images,
        "masks": counts.masks,
        "expressions": counts.expressions,
        "failures": counts.quarantined,
    }
    parts = {}
    for table, data in contents.items():
        digest = sha256_hex(data)
        name = part_name(shard.shard, shard.generation, digest)
        parts[table] = PartRecord(name=name, rows=rows[table], size_bytes=len(data), sha256=digest)
    receipt = Receipt(
        shard=shard.shard,
        generation=shard.generation,
        parts=parts,
        counts=counts,
        seconds=dict(shard.seconds),
        attempts=dict(provenance.attempts),
        degraded=dict(provenance.degraded),
        mixed=provenance.mixed,
        decisions=shard.decisions,
        wide_decisions=shard.wide_decisions,
        long_texts=shard.long_texts,
        header_sha256=provenance.header_sha256,
        source=provenance.source,
        nodes=shard.nodes,
    )
    return receipt.model_copy(update=counted_images(shard))


def counted_images(shard: Shard, base: Receipt | None = None) -> dict[str, dict[str, int]]:
    """Return the fields of a receipt that count its images by names, with those of the generation before it."""
    found = {name: Counter[str](getattr(base, name, {})) for name in COUNTED_BY_NAME}
    for image in shard.images:
        if image.failure is not None:
            continue
        if image.note is not None:
            found["notes"][image.note] += 1
        if image.masks_left is not None:
            found["masks_left"].update(image.masks_left)
            found["emptied"].update(filter(None, [emptied_by(image.masks_left)]))
    return {name: dict(counts) for name, counts in found.items()}


def quarantined_ids(location: RunLocation, receipt: Receipt, reasons: frozenset[str] | None = None) -> frozenset[str]:
    """Return the ids of the images that a retry of `reasons` computes again; ConfigError if their part is damaged."""
    failures = _stored(location, FAILURES, receipt).to_pylist()
    return frozenset(row["image_id"] for row in failures if is_retried(row["reason"], reasons))


def commit_retry(
    location: RunLocation,
    shard: Shard,
    *,
    planned_ids: Sequence[str],
    embed_images: bool,
    provenance: Provenance = NOWHERE,
) -> Receipt:
    """Commit a retry on top of the previous generation; if no row changes, write nothing and return its receipt.

    `shard` holds only the retried images; its generation is the one to write. `planned_ids` are those of the whole
    shard, in order. Rows of the other images stay the same; rows of the retried images are placed in plan order.
    ValueError if an image was not in quarantine: the engine returned a block that was not requested.
    """
    existing = read_receipt(location, shard.shard, shard.generation)
    if existing is not None:
        return existing
    base = read_receipt(location, shard.shard, shard.generation - 1)
    if base is None:
        raise ConfigError(
            f"shard {shard.shard} has no receipt of generation {shard.generation - 1}: it was deleted. Run "
            "`pseudoris verify` to find all damage"
        )
    try:
        before = {table: _stored(location, table, base) for table in SCHEMAS}
    except ConfigError:
        # If another writer has committed this generation, gc may have deleted the base. Its receipt is returned.
        existing = read_receipt(location, shard.shard, shard.generation)
        if existing is None:
            raise
        return existing
    merged = _merge(before, shard, planned_ids, embed_images=embed_images)
    if all(merged[table].equals(before[table]) for table in SCHEMAS):
        return base
    contents = {name: table_bytes(table) for name, table in merged.items()}
    names = dict.fromkeys((*base.seconds, *shard.seconds))
    worked = replace(
        shard,
        seconds={name: base.seconds.get(name, 0.0) + shard.seconds.get(name, 0.0) for name in names},
        nodes=tuple(dict.fromkeys((*base.nodes, *shard.nodes))),
        long_texts=base.long_texts + shard.long_texts,
        decisions=base.decisions + shard.decisions,
        wide_decisions=base.wide_decisions + shard.wide_decisions,
    )
    counts = ShardCounts(**table_counts(merged))
    receipt = make_receipt(worked, contents, counts, _together(base, provenance))
    return commit_parts(location, contents, receipt.model_copy(update=counted_images(shard, base)))


def _stored(location: RunLocation, table: str, receipt: Receipt) -> pa.Table:
    """Return a table of a generation, by bytes whose digest is checked: a new receipt would vouch for any damage."""
    part = receipt.parts[table]
    return read_part(io.BytesIO(read_whole(location, table, part)), SCHEMAS[table], part.name)


# Of images with these reasons, no bytes reached the run.
NOT_READ: Final = ("missing", "changed", "unreadable", "archived", "denied")


def as_quarantined(location: RunLocation, shard: Shard, receipt: Receipt) -> Shard:
    """Return a shard that was read again for a repair, with the quarantine that its receipt counts.

    An image that can be read by now is still for a retry. If the part that lists them is damaged, the number counts.
    ConfigError if an image that was annotated cannot be read now.
    """
    try:
        rows = {row.pop("image_id"): row for row in _stored(location, FAILURES, receipt).to_pylist()}
    except ConfigError:
        if sum(image.failure is not None for image in shard.images) <= receipt.parts[FAILURES].rows:
            return shard
        rows = {}
    failed = ((image, image.failure) for image in shard.images if image.failure and image.image_id not in rows)
    if lost := [f"image {image.key} is {now.reason} ({now.message})" for image, now in failed]:
        raise ConfigError(
            f"shard {shard.shard} cannot be repaired: {'; '.join(lost[:3])}, so its rows cannot be computed again, and "
            "nothing is written. Restore images with their times (`cp -p`), or the parts, from a copy"
        )
    images = []
    for image in shard.images:
        before = rows.get(image.image_id)
        is_read = image.failure is None or image.failure.reason not in NOT_READ
        if before is not None and is_read and before["reason"] in NOT_READ:
            image = ShardImage(image.position, image.image_id, image.key)
        images.append(image if before is None else image.quarantined(Failure(**before)))
    return shard.with_images(tuple(images))


def _merge(
    before: Mapping[str, pa.Table], shard: Shard, planned_ids: Sequence[str], *, embed_images: bool
) -> dict[str, pa.Table]:
    retried = pa.array([image.image_id for image in shard.images], pa.string())
    unasked = sorted(set(retried.to_pylist()) - set(before[FAILURES]["image_id"].to_pylist()))
    if unasked:
        raise ValueError(
            f"shard {shard.shard}, generation {shard.generation}: images {unasked[:3]} are not quarantined, "
            "so they cannot be retried. Nothing is committed"
        )
    new = shard_tables(shard, embed_images=embed_images)
    order = pa.array(planned_ids, pa.string())
    return {table: in_plan_order([without(before[table], retried), new[table]], order) for table in SCHEMAS}


def without(table: pa.Table, image_ids: pa.Array) -> pa.Table:
    """Return the rows of all other images."""
    return table.filter(pc.invert(pc.is_in(table["image_id"], value_set=image_ids)))


def in_plan_order(tables: Sequence[pa.Table], order: pa.Array) -> pa.Table:
    """Return the rows of all tables, with images in plan order and the rows of an image in their old order."""
    rows = pa.concat_tables(tables)
    places = pc.index_in(rows["image_id"], value_set=order).to_numpy()
    return rows.take(pa.array(np.argsort(places, kind="stable")))


def _together(base: Receipt, provenance: Provenance) -> Provenance:
    """Return the provenance of the whole shard: most of its rows come from the previous generation."""
    # The first attempt of a retry is not counted as a repetition, so only its further attempts are added.
    attempts = Counter(base.attempts)
    attempts.update(
        {pool: count - 1 if pool in base.attempts else count for pool, count in provenance.attempts.items()}
    )
    return Provenance(
        attempts=dict(attempts),
        degraded={**base.degraded, **provenance.degraded},
        mixed=tuple(dict.fromkeys((*base.mixed, *provenance.mixed))),
        header_sha256=provenance.header_sha256,
        source=provenance.source,
    )
