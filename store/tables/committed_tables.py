"""Reads committed tables, whole or by columns and rows: only the parts that receipts name, never uncommitted files.

Called by checks, reports and `refilter`, and by `training`, `viewer`, `audit` and `cli/demo.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pseudoris.schemas.errors import ConfigError, TransientError, refuse_other_version
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import SCHEMAS, TABLES_VERSION
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import latest_receipts, part_path
from pseudoris.store.tables.parquet_files import damaged, open_parquet


def iter_table(
    location: RunLocation,
    table: str,
    columns: Sequence[str] | None = None,
    receipts: Iterable[Receipt] | None = None,
) -> Iterator[pa.Table]:
    """Yield a table shard by shard. At most one part is in memory.

    Args:
        location: The run's folder.
        table: A name of `tables.SCHEMAS`.
        columns: Column names, in the order of the result; None means all.
        receipts: The shards to read; None means the latest receipt of each shard, ordered by shard.

    Raises:
        ValueError: There is no such table or column.
        ConfigError: A part is missing, or another version of the package wrote it.
        TransientError: A part cannot be read.
    """
    schema = chosen_schema(table, columns)
    for receipt in latest_receipts(location) if receipts is None else receipts:
        path = part_path(table, receipt.parts[table])
        try:
            with location.open_input(path) as file:
                yield read_part(file, schema, location.uri(path))
        except FileNotFoundError:
            raise ConfigError(
                f"{location.uri(path)} is missing, although the receipt of shard {receipt.shard} names it: "
                "run `pseudoris verify` to find all damage"
            ) from None


def read_table(
    location: RunLocation,
    table: str,
    columns: Sequence[str] | None = None,
    receipts: Iterable[Receipt] | None = None,
) -> pa.Table:
    """Return all that `iter_table` yields as one table in memory; it is empty if nothing is committed."""
    schema = chosen_schema(table, columns)
    return pa.concat_tables([schema.empty_table(), *iter_table(location, table, columns, receipts)])


def read_part(file: BinaryIO, schema: pa.Schema, name: str) -> pa.Table:
    """Return the columns of `schema` from a part, cast to that schema; raises like `iter_table`, showing `name`."""
    parquet = _open_part(file, name)
    try:
        return _read_groups(parquet, range(parquet.num_row_groups), schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise TransientError(damaged(name, error)) from error


def _read_groups(parquet: pq.ParquetFile, groups: Sequence[int], schema: pa.Schema) -> pa.Table:
    """Return some row groups, cast to the schema; KeyError if the part lacks a column."""
    found = parquet.read_row_groups(list(groups), columns=schema.names, use_threads=False)
    return pa.table([found[field.name].cast(field.type) for field in schema], schema=schema)


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


def _open_part(file: BinaryIO, name: str) -> pq.ParquetFile:
    """Open a part, unless another version of the package wrote it."""
    parquet = open_parquet(file, name)
    metadata = parquet.schema_arrow.metadata or {}
    refuse_other_version(name, int(metadata.get(b"pseudoris.version", b"0")), TABLES_VERSION)
    return parquet


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows to keep: a `pyarrow.dataset` expression (null counts as false), and the columns that it uses."""

    expression: pc.Expression
    columns: tuple[str, ...]


def read_selected(
    location: RunLocation, table: str, name: str, columns: Sequence[str], keep: RowFilter | None = None
) -> pa.Table:
    """Return the columns of the rows that `keep` accepts, in the order of the part `name`; raises like `iter_table`.

    Reads the footer, then the chosen columns and those of the filter. Row groups that the statistics rule out are
    skipped.
    """
    wanted = list(dict.fromkeys((*columns, *(keep.columns if keep else ()))))
    schema = chosen_schema(table, wanted)
    path = f"{table}/{name}"
    uri = location.uri(path)
    try:
        with location.open_input(path) as file:
            parquet = _open_part(file, uri)
            groups = _row_groups(file, parquet, schema, keep)
            found = _read_groups(parquet, groups, schema) if groups else schema.empty_table()
    except FileNotFoundError:
        raise ConfigError(
            f"{uri} is missing, although a receipt names it. If `annotate --retry-failed` has replaced the shard, take "
            "a new snapshot of the run (refresh() of the dataset, or Snapshot.shared with another turn). Otherwise "
            "run `pseudoris verify` to find all damage"
        ) from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise TransientError(damaged(uri, error)) from error
    if keep is not None:
        # Not `Table.filter`, which has threads of its own (see `parquet_files`).
        source = acero.Declaration("table_source", acero.TableSourceNodeOptions(found))
        kept = acero.Declaration("filter", acero.FilterNodeOptions(keep.expression), inputs=[source])
        found = kept.to_table(use_threads=False)
    return found.select(list(columns))


def _row_groups(file: BinaryIO, parquet: pq.ParquetFile, schema: pa.Schema, keep: RowFilter | None) -> list[int]:
    """Return the row groups that may hold a row to keep, judged by their statistics."""
    everything = list(range(parquet.num_row_groups))
    if keep is None:
        return everything
    fragment = ds.ParquetFileFormat().make_fragment(pa.PythonFile(_Borrowed(file), mode="r"))
    return [group.id for group in fragment.subset(filter=keep.expression, schema=schema).row_groups]


class _Borrowed:
    """A file whose `close` does nothing, because Arrow closes every file that it is given."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        """Leave the file open."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False
