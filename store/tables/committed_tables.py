"""Reads committed tables, whole or by columns and rows: only the parts that receipts name, never uncommitted files.

Called by `store`, `interchange`, `pipeline` and `viewer`; other rooms read through `OpenRun`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import DamagedError, damaged, open_parquet
from pseudoris.images.parquet_pages import BorrowedFile
from pseudoris.primitives.errors import refuse_other_version
from pseudoris.schemas.tables import SCHEMAS, TABLES_VERSION
from pseudoris.store.tables.parts import lost_part


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows to keep: a `pyarrow.dataset` expression (null counts as false), and the columns that it uses."""

    expression: pc.Expression
    columns: tuple[str, ...]


def read_part(file: BinaryIO, schema: pa.Schema, name: str, keep: RowFilter | None = None) -> pa.Table:
    """Return the columns of `schema` from a part, cast to that schema; a damaged one is a `DamagedError`.

    Row groups in which `keep` can accept no row, by their statistics, are left out.
    """
    parquet = open_parquet(file, name)
    metadata = parquet.schema_arrow.metadata or {}
    refuse_other_version(name, int(metadata.get(b"pseudoris.version", b"0")), TABLES_VERSION)
    groups = list(range(parquet.num_row_groups))
    try:
        if keep is not None:
            # `pyarrow.dataset` is imported here, because it loads pandas, which would slow down `--help`.
            import pyarrow.dataset as ds

            fragment = ds.ParquetFileFormat().make_fragment(pa.PythonFile(BorrowedFile(file), mode="r"))
            groups = [group.id for group in fragment.subset(filter=keep.expression, schema=schema).row_groups]
        if not groups:
            return schema.empty_table()
        found = parquet.read_row_groups(groups, columns=schema.names, use_threads=False)
        return pa.table([found[field.name].cast(field.type) for field in schema], schema=schema)
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
