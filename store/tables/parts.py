"""Reads the parts that receipts, or a header, name, and says how a lost one comes back. Called by `store` and `cli`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import PART_NAME, sha256_hex
from pseudoris.schemas.run_records import HEADER_NAME, PartRecord, RunHeader
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.header import RESTORE, read_header
from pseudoris.store.runs.receipts import part_path, read_receipt

_SNAPSHOT: Final = "take a new snapshot of the run (refresh() of the dataset, or Snapshot.shared with another turn)"


def remedy(header: RunHeader) -> str:
    """Return the sentence that says how parts of the run come back."""
    return f"Run the `pseudoris {header.origin}` command of this run again with --repair"


def _witness(path: str) -> str:
    return "a receipt" if path.partition("/")[0] in SCHEMAS else HEADER_NAME


def lost_part(location: RunLocation, path: str, found: str | None = None, *, replaced: str = _SNAPSHOT) -> ConfigError:
    """Return the error for a part of a table, or of the plan, that is not as its receipt, or the header, says.

    `found` says how it is, by default that it is missing; `replaced` is the remedy if a retry replaced it.
    """
    uri, witness = location.uri(path), _witness(path)
    # The default text is one literal, because a page of the docs quotes it.
    found = found or "is missing, although a receipt names it".replace("a receipt", witness)
    name = PART_NAME.fullmatch(path.rpartition("/")[2])
    if name and read_receipt(location, int(name[1]), int(name[2]) + 1) is not None:
        return ConfigError(f"{uri} was replaced by a retry of quarantined images: {replaced}")
    if what := location.obstacle(path):
        found = f"is {what}, not the file that {witness} names. Move it out"
    if witness == HEADER_NAME:
        return ConfigError(f"{uri} {found}. {RESTORE}")
    header = read_header(location)
    return ConfigError(f"{uri} {found}. {remedy(header) if header else 'Run `pseudoris verify` to find all damage'}")


def read_whole(location: RunLocation, table: str, part: PartRecord, *, replaced: str = _SNAPSHOT) -> bytes:
    """Return the bytes of a part of a table or of the plan (`PLAN_FOLDER`); ConfigError if it is missing or changed."""
    path = part_path(table, part)
    try:
        data = location.read_bytes(path)
    except FileNotFoundError:
        raise lost_part(location, path, replaced=replaced) from None
    if sha256_hex(data) != part.sha256:
        raise lost_part(location, path, f"is damaged: its sha256 is not the one that {_witness(path)} names")
    return data


def part_sizes(location: RunLocation, tables: Iterable[str] = SCHEMAS) -> dict[str, dict[str, int]]:
    """Return the sizes of the files in the folders of some tables, by table and name."""
    names = list(tables)
    sizes = map_in_threads(lambda table: {f.name: f.size_bytes for f in location.list(table)}, names, len(names))
    return dict(zip(names, sizes, strict=True))


def refuse_lost(location: RunLocation, table: str, part: PartRecord, sizes: Mapping[str, int]) -> None:
    """Raise ConfigError for a part that is missing or cut; `sizes` are those of its folder, listed before.

    Other changes of its bytes show when it is read.
    """
    if sizes.get(part.name) == part.size_bytes:
        return
    path = part_path(table, part)
    # The listing may be older than the file, so the storage is asked for the size again.
    size = location.size(path)
    if size is None:
        raise lost_part(location, path)
    if size != part.size_bytes:
        raise lost_part(location, path, f"has {size} bytes, {_witness(path)} says {part.size_bytes}")
