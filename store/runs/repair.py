"""Finds damaged parts of committed shards and writes them again. Called by `store`, `pipeline` and `cli`.

`--repair` of the command that wrote the run computes their shards again. A part may be written only with the bytes that
its receipt names: a repair changes no digest, may be killed at any moment, and may meet another writer or `gc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.receipts import part_path, receipt_path

# Few threads read parts, because each holds a whole part: with embedded images, up to `shards.max_bytes`.
_THREADS: Final = 4
# A repair mends these problems of `verify`, in which a file is damaged. In others, a file is as its receipt says.
REPAIRED: Final = ("part_missing", "part_size", "part_sha256", "part_unreadable")


def damaged_tables(location: RunLocation, receipt: Receipt) -> list[str]:
    """Return the tables whose part of this shard is not the one that the receipt names, byte for byte."""
    paths = ((table, part_path(table, receipt.parts[table])) for table in SCHEMAS)
    found = ((table, sha256_hex(location.read_if_there(path) or b"")) for table, path in paths)
    return [table for table, digest in found if digest != receipt.parts[table].sha256]


def damaged_receipts(location: RunLocation, receipts: Iterable[Receipt]) -> Iterator[Receipt]:
    """Yield the receipts of shards with `damaged_tables`, in their order; every part is read."""
    judged = map_in_threads(lambda each: (each, damaged_tables(location, each)), receipts, _THREADS)
    return (receipt for receipt, damaged in judged if damaged)


def restore_parts(location: RunLocation, receipt: Receipt, contents: Mapping[str, bytes]) -> None:
    """Write the damaged parts of a committed shard from `contents`, its tables computed again; sound ones stay.

    ConfigError, and nothing is written, if `contents` has other bytes than the receipt names.
    """
    damaged = damaged_tables(location, receipt)
    if other := [table for table in damaged if sha256_hex(contents[table]) != receipt.parts[table].sha256]:
        paths = ", ".join(location.uri(part_path(table, receipt.parts[table])) for table in other)
        receipts = location.uri(receipt_path(receipt.shard, receipt.generation)).rpartition(".g")[0]
        raise ConfigError(
            f"shard {receipt.shard} cannot be repaired: its images, models or packages give other bytes now than its "
            f"receipt names, so nothing is written. Restore {paths} from a copy. Or delete all receipts of the shard "
            f"({receipts}.g*.json) and run the command without --repair: the root digest changes, and each image that "
            "is not as planned, if only in its time of change, is lost to quarantine; first restore times: `cp -p`"
        )
    for table in damaged:
        location.replace(part_path(table, receipt.parts[table]), contents[table])
