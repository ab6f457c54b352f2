"""Numbered snapshots of the receipts, `_manifest/0001.parquet`: one read instead of one a shard. A cache only."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from schemas.errors import TransientError
from schemas.run import MANIFEST_FOLDER, PartRecord, Receipt, ShardCounts
from schemas.tables import SCHEMAS
from store.location import RunLocation
from store.parquet import open_parquet, parquet_bytes
from store.receipts import list_receipts, read_receipts, standing_receipts

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"^(\d{4,})\.parquet$")
_COUNTS: Final = tuple(name for name in ShardCounts.model_fields if name != "reasons")
_PART_TYPES: Final = {"name": pa.string(), "rows": pa.int64(), "size_bytes": pa.int64(), "sha256": pa.string()}
_VERSION_KEY: Final = b"pseudoris.manifest_version"
_VERSION: Final = b"1"

MANIFEST_SCHEMA: Final = pa.schema(
    [
        pa.field("version", pa.int32(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        pa.field("reasons", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("seconds", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("nodes", pa.list_(pa.string()), nullable=False),
        *(
            pa.field(f"{table}_part_{name}", kind, nullable=False)
            for table in SCHEMAS
            for name, kind in _PART_TYPES.items()
        ),
    ],
    metadata={_VERSION_KEY: _VERSION},
)


def write_manifest(location: RunLocation) -> str:
    """Write a snapshot of all standing receipts under the next number; return its path.

    Raises:
        ConfigError: The location cannot be written, or a receipt cannot be used.
        TransientError: Storage failed.
    """
    table = pa.Table.from_pylist([_row(receipt) for receipt in standing_receipts(location)], schema=MANIFEST_SCHEMA)
    data = parquet_bytes([table], MANIFEST_SCHEMA)
    number = max(_numbers(location), default=0)
    while True:
        number += 1
        path = f"{MANIFEST_FOLDER}/{number:04d}.parquet"
        if location.create_once(path, data):
            return path


def read_manifest(location: RunLocation) -> list[Receipt]:
    """Return the receipts of the latest snapshot, ordered by shard; none where there is no usable one.

    A damaged snapshot, or one of another version, is passed over with a warning: the receipts have it all.
    """
    number = max(_numbers(location), default=None)
    if number is None:
        return []
    path = f"{MANIFEST_FOLDER}/{number:04d}.parquet"
    try:
        with location.open_input(path) as file:
            parquet = open_parquet(file, location.uri(path))
            if (parquet.schema_arrow.metadata or {}).get(_VERSION_KEY) != _VERSION:
                raise TransientError(f"{location.uri(path)} has another version than {_VERSION.decode()}")
            return [_receipt(row) for row in parquet.read().to_pylist()]
    except (TransientError, FileNotFoundError, OSError, ValueError) as error:
        logger.warning("the manifest is passed over, receipts are read instead: %s", error)
        return []


def cached_receipts(location: RunLocation) -> Iterator[Receipt]:
    """Yield the standing receipts ordered by shard, from the latest snapshot where it has them.

    For figures, not for deletion or proof: a receipt that somebody deleted and that was written anew may
    still show as it was.
    """
    highest = list_receipts(location)
    cached = {(receipt.shard, receipt.generation): receipt for receipt in read_manifest(location)}
    unread = read_receipts(location, [commit for commit in highest.items() if commit not in cached])
    for commit in highest.items():
        yield cached[commit] if commit in cached else next(unread)


def _numbers(location: RunLocation) -> Iterable[int]:
    matches = (_NAME.match(file.name) for file in location.list(MANIFEST_FOLDER))
    return [int(match[1]) for match in matches if match]


def _row(receipt: Receipt) -> dict[str, Any]:
    row: dict[str, Any] = receipt.model_dump(include={"version", "shard", "generation", "seconds", "attempts", "nodes"})
    row |= receipt.counts.model_dump()
    for table, part in receipt.parts.items():
        row |= {f"{table}_part_{name}": value for name, value in part.model_dump().items()}
    return row


def _receipt(row: dict[str, Any]) -> Receipt:
    parts = {table: PartRecord(**{name: row[f"{table}_part_{name}"] for name in _PART_TYPES}) for table in SCHEMAS}
    return Receipt(
        version=row["version"],
        shard=row["shard"],
        generation=row["generation"],
        parts=parts,
        counts=ShardCounts(**{name: row[name] for name in _COUNTS}, reasons=dict(row["reasons"])),
        seconds=dict(row["seconds"]),
        attempts=row["attempts"],
        nodes=tuple(row["nodes"]),
    )
