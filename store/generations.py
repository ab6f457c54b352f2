"""A retry's commit: generation g+1 of a shard is generation g with the rows of the retried images in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError
from schemas.run import Receipt, ShardCounts
from schemas.shard import Shard
from schemas.tables import (
    EXPRESSIONS,
    FAILURES,
    IMAGES,
    MASKS,
    SCHEMAS,
    STATUS_ANNOTATED,
    STATUS_EMPTY,
    STATUS_QUARANTINED,
)
from store.commit import NOWHERE, CommitOutcome, Provenance, commit_parts, make_receipt
from store.location import RunLocation
from store.reading import read_table
from store.receipts import read_receipt
from store.tables import shard_tables, table_bytes


def quarantined_ids(location: RunLocation, receipt: Receipt, reasons: frozenset[str] | None = None) -> frozenset[str]:
    """Return the ids of the images that the receipt's generation has in quarantine.

    Args:
        location: Where the run lives.
        receipt: Of the generation.
        reasons: Only those quarantined for one of these; all by default.

    Raises:
        ConfigError: Its part is missing.
        TransientError: Storage failed.
    """
    failures = read_table(location, FAILURES, ("image_id", "reason"), [receipt]).to_pylist()
    return frozenset(row["image_id"] for row in failures if reasons is None or row["reason"] in reasons)


def commit_retry(
    location: RunLocation,
    shard: Shard,
    *,
    planned_ids: Sequence[str],
    embed_images: bool,
    provenance: Provenance = NOWHERE,
) -> CommitOutcome:
    """Commit a retry on top of the generation before it; where it changes no row, nothing is written.

    Rows of the other images stay as they were, rows of the retried ones stand where the plan has them. Safe to
    repeat, to kill, and to run twice at once, like `store.commit.commit_shard`.

    Args:
        location: Where the run lives.
        shard: The retried images alone, after the last stage; its generation is the one to write.
        planned_ids: The plan's image ids of the whole shard, in order.
        embed_images: Whether encoded images go into the images table.
        provenance: How the retry came to be, for the receipt.

    Returns:
        The receipt of the new generation, or of the one before it where the retry changed nothing.

    Raises:
        ValueError: An image was not in quarantine: the engine gave a block that was not asked for.
        ConfigError: The generation before it cannot be read, or the location cannot be written.
        TransientError: Storage failed.
    """
    standing = read_receipt(location, shard.shard, shard.generation)
    if standing is not None:
        return CommitOutcome(standing, is_winner=False)
    base = read_receipt(location, shard.shard, shard.generation - 1)
    if base is None:
        raise ConfigError(f"shard {shard.shard} has no generation {shard.generation - 1} to retry: was it deleted?")
    try:
        before = {table: read_table(location, table, receipts=[base]) for table in SCHEMAS}
    except ConfigError:
        # Superseded and collected while this was computed: then the new generation stands.
        standing = read_receipt(location, shard.shard, shard.generation)
        if standing is None:
            raise
        return CommitOutcome(standing, is_winner=False)
    merged = _merge(before, shard, planned_ids, embed_images=embed_images)
    if all(merged[table].equals(before[table]) for table in SCHEMAS):
        return CommitOutcome(base, is_winner=True)
    contents = {name: table_bytes(table) for name, table in merged.items()}
    worked = replace(
        shard,
        seconds={name: base.seconds.get(name, 0.0) + shard.seconds.get(name, 0.0) for name in _names(base, shard)},
        nodes=tuple(dict.fromkeys((*base.nodes, *shard.nodes))),
    )
    return commit_parts(
        location, contents, make_receipt(worked, contents, _counts(merged), _together(base, provenance))
    )


def _merge(
    before: Mapping[str, pa.Table], shard: Shard, planned_ids: Sequence[str], *, embed_images: bool
) -> dict[str, pa.Table]:
    retried = pa.array([image.image_id for image in shard.images], pa.string())
    strangers = sorted(set(retried.to_pylist()) - set(before[FAILURES]["image_id"].to_pylist()))
    if strangers:
        raise ValueError(
            f"shard {shard.shard}, generation {shard.generation}: images {strangers[:3]} were not in quarantine, "
            "so there was nothing to retry; nothing is committed"
        )
    new = shard_tables(shard, embed_images=embed_images)
    order = pa.array(planned_ids, pa.string())
    return {table: _in_plan_order(_without(before[table], retried), new[table], order) for table in SCHEMAS}


def _without(table: pa.Table, image_ids: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["image_id"], value_set=image_ids)))


def _in_plan_order(kept: pa.Table, added: pa.Table, order: pa.Array) -> pa.Table:
    """Return the rows of both, images in the order of the plan, the rows of an image as they stood."""
    rows = pa.concat_tables([kept, added])
    places = pc.index_in(rows["image_id"], value_set=order).to_numpy()
    return rows.take(pa.array(np.argsort(places, kind="stable")))


def _counts(tables: Mapping[str, pa.Table]) -> ShardCounts:
    status = Counter(tables[IMAGES]["status"].to_pylist())
    return ShardCounts(
        images=tables[IMAGES].num_rows,
        annotated=status[STATUS_ANNOTATED],
        empty=status[STATUS_EMPTY],
        quarantined=status[STATUS_QUARANTINED],
        masks=tables[MASKS].num_rows,
        expressions=tables[EXPRESSIONS].num_rows,
        samples=pc.sum(tables[EXPRESSIONS]["count"], min_count=0).as_py(),
        kept=pc.sum(tables[EXPRESSIONS]["kept"], min_count=0).as_py(),
        reasons=dict(sorted(Counter(tables[FAILURES]["reason"].to_pylist()).items())),
    )


def _names(base: Receipt, shard: Shard) -> Sequence[str]:
    return tuple(dict.fromkeys((*base.seconds, *shard.seconds)))


def _together(base: Receipt, provenance: Provenance) -> Provenance:
    """Return how the whole shard came to be: most of its rows are the generation's before it."""
    # A retry is no repeat: of its attempts only what is above one was done again.
    attempts = Counter(base.attempts)
    attempts.update(
        {pool: count - 1 if pool in base.attempts else count for pool, count in provenance.attempts.items()}
    )
    return Provenance(
        attempts=dict(attempts),
        degraded={**base.degraded, **provenance.degraded},
        mixed=tuple(dict.fromkeys((*base.mixed, *provenance.mixed))),
    )
