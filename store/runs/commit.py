"""The commit of a shard: parts first, then the receipt, created once. The receipt is the commit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.ids import part_name, sha256_hex
from pseudoris.schemas.run_records import PartRecord, Receipt, ShardCounts
from pseudoris.schemas.shard import Shard
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import part_path, read_receipt, receipt_path
from pseudoris.store.runs.seals import sealed
from pseudoris.store.tables.shard_tables import counts_of, shard_tables, table_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a receipt records besides the shard's content; the fields are those of `Receipt`."""

    attempts: Mapping[str, int] = field(default_factory=dict)
    degraded: Mapping[str, JsonValue] = field(default_factory=dict)
    mixed: tuple[str, ...] = ()
    header_sha256: str | None = None


NOWHERE: Final = Provenance()


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """The committed receipt of the shard's generation.

    Attributes:
        receipt: Ours, or that of the writer that committed first.
        is_winner: Whether it names the parts of this call. Also true for a repeated call.
    """

    receipt: Receipt
    is_winner: bool


def commit_shard(
    location: RunLocation,
    shard: Shard,
    *,
    planned_ids: Sequence[str],
    embed_images: bool,
    provenance: Provenance = NOWHERE,
) -> CommitOutcome:
    """Write the shard's parts and create its receipt. Safe to repeat, to kill, and to run twice at once.

    Args:
        location: The run's folder.
        shard: The shard after the last stage, with all of its images.
        planned_ids: The plan's image ids of this shard, in order.
        embed_images: Whether encoded images are written into the images table.
        provenance: How the shard was computed, for the receipt.

    Raises:
        ValueError: The shard's ids differ from the plan's: the engine split, merged or reordered a block.
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    _check_ids(shard, planned_ids)
    contents = {name: table_bytes(table) for name, table in shard_tables(shard, embed_images=embed_images).items()}
    return commit_parts(location, contents, make_receipt(shard, contents, counts_of(shard), provenance))


def commit_parts(location: RunLocation, contents: Mapping[str, bytes], receipt: Receipt) -> CommitOutcome:
    """Write the parts of `contents` by table, then create the `receipt` that names them.

    Raises:
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    # Checked first: a late writer with other bytes then leaves no parts behind.
    existing = read_receipt(location, receipt.shard, receipt.generation)
    if existing is None:
        for table, data in contents.items():
            location.put_part(part_path(table, receipt.parts[table]), data)
        receipt, data = sealed(receipt)
        if location.create_once(receipt_path(receipt.shard, receipt.generation), data):
            return CommitOutcome(receipt, is_winner=True)
        # Refused: another writer committed first, or our own request arrived twice. The content tells which.
        existing = read_receipt(location, receipt.shard, receipt.generation)
    if existing is None:
        uri = location.uri(receipt_path(receipt.shard, receipt.generation))
        raise TransientError(f"cannot create {uri}: it exists already, but cannot be read back. Commit it again")
    outcome = _outcome(existing, receipt)
    # Delete parts that do not count: the run's last garbage collection may be over. The collection after a retry
    # deleted the parts of earlier generations, and this writer may have written them again.
    is_superseded = read_receipt(location, receipt.shard, receipt.generation + 1) is not None
    for table, part in receipt.parts.items():
        if is_superseded or part != existing.parts[table]:
            location.delete(part_path(table, part))
    return outcome


def _outcome(existing: Receipt, own: Receipt) -> CommitOutcome:
    is_winner = existing.parts == own.parts
    if not is_winner:
        tables = [name for name in own.parts if own.parts[name] != existing.parts[name]]
        logger.warning(
            "Another writer committed shard %d generation %d first, with other bytes in %s. Its parts are used.",
            own.shard,
            own.generation,
            ", ".join(tables),
        )
    return CommitOutcome(existing, is_winner)


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
    return Receipt(
        shard=shard.shard,
        generation=shard.generation,
        parts=parts,
        counts=counts,
        seconds=dict(shard.seconds),
        attempts=dict(provenance.attempts),
        degraded=dict(provenance.degraded),
        mixed=provenance.mixed,
        header_sha256=provenance.header_sha256,
        nodes=shard.nodes,
    )
