"""Reads selected columns and rows of one part. Other columns are not read, nor row groups that the filter rules out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import check_version, chosen_schema
from pseudoris.store.tables.parquet_files import damaged, open_parquet


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows of a table to keep.

    Attributes:
        expression: A `pyarrow.dataset` expression, true for the rows to keep. Null counts as false.
        columns: The columns that the expression uses.
    """

    expression: pc.Expression
    columns: tuple[str, ...]


def read_selected(
    location: RunLocation, table: str, name: str, columns: Sequence[str], keep: RowFilter | None = None
) -> pa.Table:
    """Return the chosen columns of the rows that `keep` accepts, in the part's order and the current schema.

    Reads the footer, then the chosen columns and those of the filter. Row groups that the statistics rule out are
    skipped. A column that a part of an older table version lacks is null, for the filter too.

    Args:
        location: The run's folder.
        table: A name of `tables.SCHEMAS`.
        name: File name of the part, from its receipt.
        columns: Column names, in the order of the result.
        keep: Which rows to keep; None keeps all.

    Raises:
        ValueError: There is no such table or column.
        ConfigError: The part is missing, or a later version of the package wrote it.
        TransientError: Storage failed, or the part cannot be read.
    """
    wanted = list(dict.fromkeys((*columns, *(keep.columns if keep else ()))))
    schema = chosen_schema(table, wanted)
    path = f"{table}/{name}"
    uri = location.uri(path)
    try:
        with location.open_input(path) as file:
            parquet = open_parquet(file, uri)
            check_version(parquet, uri)
            groups = _row_groups(file, parquet, schema, keep)
            found = _read_groups(parquet, groups, schema)
    except FileNotFoundError:
        raise ConfigError(
            f"{uri} is missing, although a receipt names it. If `annotate --retry-failed` has replaced the shard, take "
            "a new snapshot of the run (refresh() of the dataset, or Snapshot.shared with another turn). Otherwise "
            "run `pseudoris verify` to find all damage"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise TransientError(damaged(uri, error)) from error
    kept = found if keep is None else _filtered(found, keep.expression)
    return kept.select(list(columns))


def _row_groups(file: BinaryIO, parquet: pq.ParquetFile, schema: pa.Schema, keep: RowFilter | None) -> list[int]:
    """Return the row groups that may hold a row to keep, judged by their statistics."""
    everything = list(range(parquet.num_row_groups))
    if keep is None or any(name not in parquet.schema_arrow.names for name in keep.columns):
        return everything
    fragment = ds.ParquetFileFormat().make_fragment(pa.PythonFile(_Borrowed(file), mode="r"))
    return [group.id for group in fragment.subset(filter=keep.expression, schema=schema).row_groups]


def _read_groups(parquet: pq.ParquetFile, groups: list[int], schema: pa.Schema) -> pa.Table:
    if not groups:
        return schema.empty_table()
    known = [column for column in schema.names if column in parquet.schema_arrow.names]
    found = parquet.read_row_groups(groups, columns=known, use_threads=False)
    columns = [
        found[field.name].cast(field.type) if field.name in known else pa.nulls(found.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _filtered(table: pa.Table, expression: pc.Expression) -> pa.Table:
    """Return the rows for which the expression is true, in order, in this thread (see `parquet_files`)."""
    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
    kept = acero.Declaration("filter", acero.FilterNodeOptions(expression), inputs=[source])
    return kept.to_table(use_threads=False)


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
