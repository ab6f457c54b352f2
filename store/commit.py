"""The commit of a shard: parts first, then the receipt, created once. The receipt is the commit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from schemas.errors import TransientError
from schemas.ids import part_name, sha256_hex
from schemas.plan import PlanEntry
from schemas.run import PartRecord, Receipt, ShardCounts
from schemas.shard import Failure, Shard, ShardImage
from store.location import RunLocation
from store.receipts import read_receipt, receipt_path
from store.tables import counts_of, shard_tables, table_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a receipt says beyond the shard's content; the fields are those of `schemas.run.Receipt`."""

    attempts: Mapping[str, int] = field(default_factory=dict)
    degraded: Mapping[str, JsonValue] = field(default_factory=dict)
    mixed: tuple[str, ...] = ()


NOWHERE: Final = Provenance()
# No stage of ours: marks the block of a shard that turned out to be committed already.
_STAGE_DONE: Final = "done"


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """The receipt that stands for the shard's generation.

    Attributes:
        receipt: Ours, or that of the writer who came first.
        is_winner: Whether it names the parts of this call. True also for a repeated call.
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
    """Write the shard's parts and create its receipt; safe to repeat, to kill, and to run twice at once.

    Args:
        location: Where the run lives.
        shard: After the last stage, with all of its images.
        planned_ids: The plan's image ids of this shard, in order.
        embed_images: Whether encoded images go into the images table.
        provenance: How the shard came to be, for the receipt.

    Raises:
        ValueError: The shard's ids are not exactly the plan's: the engine cut, merged or reordered a block.
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    _check_ids(shard, planned_ids)
    contents = {name: table_bytes(table) for name, table in shard_tables(shard, embed_images=embed_images).items()}
    return commit_parts(location, contents, make_receipt(shard, contents, counts_of(shard), provenance))


def committed_shard(shard: int, generation: int, entry: PlanEntry) -> Shard:
    """Return what stands in for a shard that is committed already: an engine wants one image at least.

    Stages pass it through, as a quarantined image; `commit_of_stand_in` answers it with the receipt that stands.
    """
    image = ShardImage(entry.position, entry.image_id, entry.key)
    return Shard(shard, generation, (image.quarantined(Failure(_STAGE_DONE, "missing", "")),))


def commit_of_stand_in(location: RunLocation, shard: Shard) -> CommitOutcome | None:
    """Return the commit that a `committed_shard` stands for; None for a shard that was worked on.

    Raises:
        TransientError: Its receipt is gone, or storage failed.
    """
    if not any(image.failure and image.failure.stage == _STAGE_DONE for image in shard.images):
        return None
    standing = read_receipt(location, shard.shard, shard.generation)
    if standing is None:
        raise TransientError(
            f"the receipt of shard {shard.shard}, generation {shard.generation}, was there and is gone: "
            "run the same command again"
        )
    return CommitOutcome(standing, is_winner=False)


def commit_parts(location: RunLocation, contents: Mapping[str, bytes], receipt: Receipt) -> CommitOutcome:
    """Write the parts of `contents` by table, then create the `receipt` that names them.

    Raises:
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    # Asked first: a late writer with other bytes then leaves no parts behind.
    standing = read_receipt(location, receipt.shard, receipt.generation)
    if standing is None:
        for table, data in contents.items():
            location.put_part(part_path(table, receipt.parts[table]), data)
        path = receipt_path(receipt.shard, receipt.generation)
        if location.create_once(path, receipt.model_dump_json(indent=2).encode()):
            return CommitOutcome(receipt, is_winner=True)
        # Refused: another writer came first, or our own request arrived twice. The content tells which.
        standing = read_receipt(location, receipt.shard, receipt.generation)
    if standing is None:
        uri = location.uri(receipt_path(receipt.shard, receipt.generation))
        raise TransientError(f"{uri} was refused as existing and does not read back; the commit must be repeated")
    outcome = _outcome(standing, receipt)
    # What counts nowhere goes: the run's last collection may be over. One after a retry has taken the parts below it,
    # which this writer may have put there again.
    is_superseded = read_receipt(location, receipt.shard, receipt.generation + 1) is not None
    for table, part in receipt.parts.items():
        if is_superseded or part != standing.parts[table]:
            location.delete(part_path(table, part))
    return outcome


def part_path(table: str, part: PartRecord) -> str:
    """Return where a part stands, `masks/shard-00000042.g0-51d20b6e.parquet`."""
    return f"{table}/{part.name}"


def _outcome(standing: Receipt, own: Receipt) -> CommitOutcome:
    is_winner = standing.parts == own.parts
    if not is_winner:
        tables = [name for name in own.parts if own.parts[name] != standing.parts[name]]
        logger.warning(
            "shard %d generation %d was committed by another writer with other bytes in %s; its parts count",
            own.shard,
            own.generation,
            ", ".join(tables),
        )
    return CommitOutcome(standing, is_winner)


def _check_ids(shard: Shard, planned_ids: Sequence[str]) -> None:
    got = [image.image_id for image in shard.images]
    if got == list(planned_ids):
        return
    missing = sorted(set(planned_ids) - set(got))
    extra = sorted(set(got) - set(planned_ids))
    detail = f"missing {missing[:3]}, not planned {extra[:3]}" if missing or extra else "another order or a repeated id"
    raise ValueError(
        f"shard {shard.shard} holds {len(got)} images, the plan {len(planned_ids)}: {detail}. "
        "A block must be one shard, whole: nothing is committed"
    )


def make_receipt(
    shard: Shard, contents: Mapping[str, bytes], counts: ShardCounts, provenance: Provenance = NOWHERE
) -> Receipt:
    """Return the receipt of `contents`, the parts by table, that hold `counts`; nothing is written."""
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
        nodes=shard.nodes,
    )
