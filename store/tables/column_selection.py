"""Some columns and some rows of one part: what is not asked for is not read, neither columns nor row groups."""

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
        expression: Of `pyarrow.dataset`; true for the rows to keep, a null counts as false.
        columns: The columns that it asks for.
    """

    expression: pc.Expression
    columns: tuple[str, ...]


def read_selected(
    location: RunLocation, table: str, name: str, columns: Sequence[str], keep: RowFilter | None = None
) -> pa.Table:
    """Return some columns of the rows of a part that a filter keeps, in the part's order and the present schema.

    Read are the footer and, of the row groups whose statistics do not rule the filter out, the columns asked for and
    those of the filter. A column that an older version of the tables does not know is null, for the filter too.

    Args:
        location: The run's folder.
        table: A name of `tables.SCHEMAS`.
        name: Of the part, as its receipt has it.
        columns: Names of columns, in the order wanted.
        keep: Which rows; all by default.

    Raises:
        ValueError: There is no such table or column.
        ConfigError: The part is missing, or a later version of the package wrote it.
        TransientError: Storage failed, or the part does not read.
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
            f"{uri} is missing, although a receipt names it. Where the shard was done again since (`annotate "
            "--retry-failed`), take a new snapshot of the run (a dataset's refresh(), or Snapshot.shared of another "
            "turn); else run `pseudoris verify` for the extent"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise TransientError(damaged(uri, error)) from error
    kept = found if keep is None else _filtered(found, keep.expression)
    return kept.select(list(columns))


def _row_groups(file: BinaryIO, parquet: pq.ParquetFile, schema: pa.Schema, keep: RowFilter | None) -> list[int]:
    """Return which row groups may hold a row to keep, by their statistics."""
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
    """A file that its second user does not close: Arrow closes what it is given."""

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
