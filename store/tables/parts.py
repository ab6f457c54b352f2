"""Reads the parts that receipts, or a header, name, and says how a lost one comes back. Called by most rooms.

Tables are read whole or by columns and rows: only the parts that are named, never uncommitted files. Damaged parts of
committed shards are found and written again. `--repair` of the command that wrote the run computes their shards again.
A part may be written only with the bytes that its receipt names: a repair changes no digest, may be killed at any
moment, and may meet another writer or `gc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import DamagedError, damaged, open_parquet
from pseudoris.images.parquet_pages import BorrowedFile
from pseudoris.primitives.errors import ConfigError, refuse_other_version
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import PART_NAME, sha256_hex
from pseudoris.schemas.run_records import HEADER_NAME, PartRecord, Receipt, RunHeader
from pseudoris.schemas.tables import READ_VERSIONS, SCHEMAS, SCHEMAS_OF_5, TABLES_VERSION
from pseudoris.store.runs.header import RESTORE, read_header
from pseudoris.store.runs.receipts import part_path, read_receipt, receipt_path
from pseudoris.store.tables.shard_tables import bytes_of_version_5

_SNAPSHOT: Final = "take a new snapshot of the run (refresh() of the dataset, or Snapshot.shared with another turn)"
# Few threads read parts, because each holds a whole part: with embedded images, up to `shards.max_bytes`.
_THREADS: Final = 4
# A repair mends these problems of `verify`, in which a file is damaged. In others, a file is as its receipt says.
REPAIRED: Final = ("part_missing", "part_size", "part_sha256", "part_unreadable")


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


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows to keep: a `pyarrow.dataset` expression (null counts as false), and the columns that it uses."""

    expression: pc.Expression
    columns: tuple[str, ...]


def read_part(file: BinaryIO, schema: pa.Schema, name: str, keep: RowFilter | None = None) -> pa.Table:
    """Return the columns of `schema` from a part, cast to that schema; a damaged one is a `DamagedError`.

    Columns that its version did not have are null. Row groups in which `keep` can accept no row, by their statistics,
    are left out.
    """
    parquet = open_parquet(file, name)
    metadata = parquet.schema_arrow.metadata or {}
    version = int(metadata.get(b"pseudoris.version", b"0"))
    if version not in READ_VERSIONS:
        refuse_other_version(name, version, TABLES_VERSION)
    before = SCHEMAS_OF_5.get(metadata.get(b"pseudoris.table", b"").decode()) if version != TABLES_VERSION else None
    had = [each for each in schema.names if before is None or each in before.names]
    groups = list(range(parquet.num_row_groups))
    try:
        if keep is not None:
            # `pyarrow.dataset` is imported here, because it loads pandas, which would slow down `--help`.
            import pyarrow.dataset as ds

            fragment = ds.ParquetFileFormat().make_fragment(pa.PythonFile(BorrowedFile(file), mode="r"))
            groups = [group.id for group in fragment.subset(filter=keep.expression, schema=schema).row_groups]
        if not groups:
            return schema.empty_table()
        found = parquet.read_row_groups(groups, columns=had, use_threads=False)
        columns = [
            found[field.name].cast(field.type) if field.name in had else pa.nulls(found.num_rows, field.type)
            for field in schema
        ]
        table = pa.table(columns, schema=schema)
        # Parquet's reader takes texts that are not UTF-8, and Python would refuse them row by row.
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedError(damaged(name, error)) from error


def chosen_schema(table: str, columns: Sequence[str] | None) -> pa.Schema:
    """Return the schema of these columns of a table, in this order; None means all. ValueError if it has none such."""
    if table not in SCHEMAS:
        raise ValueError(f"there is no table {table!r}; a run has {', '.join(SCHEMAS)}")
    schema = SCHEMAS[table]
    names = schema.names if columns is None else list(columns)
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise ValueError(f"table {table} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def read_selected(
    location: RunLocation, table: str, name: str, columns: Sequence[str], keep: RowFilter | None = None
) -> pa.Table:
    """Return the columns of the rows that `keep` accepts, in the order of the part `name`.

    A missing or damaged part is a ConfigError.

    Reads the footer, then the chosen columns and those of the filter, of row groups that may hold such a row.
    """
    wanted = list(dict.fromkeys((*columns, *(keep.columns if keep else ()))))
    path = f"{table}/{name}"
    try:
        with location.open_input(path) as file:
            found = read_part(file, chosen_schema(table, wanted), location.uri(path), keep)
    except FileNotFoundError:
        raise lost_part(location, path) from None
    except DamagedError as error:
        raise lost_part(location, path, f"cannot be read as Parquet ({error.__cause__})") from error
    if keep is not None:
        from pyarrow import acero

        # `Table.filter` is not used, because it starts threads of its own (see `open_parquet`).
        source = acero.Declaration("table_source", acero.TableSourceNodeOptions(found))
        kept = acero.Declaration("filter", acero.FilterNodeOptions(keep.expression), inputs=[source])
        found = kept.to_table(use_threads=False)
    return found.select(list(columns))


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

    A part of a shard that version 0.5 or 0.6 committed is written as these did.

    ConfigError, and nothing is written, if `contents` has other bytes than the receipt names.
    """
    damaged = damaged_tables(location, receipt)
    earlier = {name: bytes_of_version_5(name, contents[name]) for name in damaged}
    named = {name for name in damaged if sha256_hex(earlier[name]) == receipt.parts[name].sha256}
    contents = {name: earlier[name] if name in named else contents[name] for name in damaged}
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
