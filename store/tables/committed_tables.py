"""Committed tables, read through the receipts that name their parts; uncommitted leavings are never seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.schemas.errors import ConfigError, TransientError
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
    """Yield a table shard by shard, in the present schema; memory is bounded by one part.

    A part of an older version is accepted: a column that it does not know comes as nulls.

    Args:
        location: The run's folder.
        table: A name of `tables.SCHEMAS`.
        columns: Names of columns, in the order wanted; all by default.
        receipts: Only these; all latest ones by default, ordered by shard.

    Raises:
        ValueError: There is no such table or column.
        ConfigError: A part is missing, or a later version of the package wrote it.
        TransientError: Storage failed, or a part does not read.
    """
    schema = chosen_schema(table, columns)
    for receipt in latest_receipts(location) if receipts is None else receipts:
        path = part_path(table, receipt.parts[table])
        try:
            with location.open_input(path) as file:
                yield read_part(file, schema, location.uri(path))
        except FileNotFoundError:
            raise ConfigError(
                f"{location.uri(path)} is named by the receipt of shard {receipt.shard} and is missing: "
                "run `pseudoris verify` for the extent"
            ) from None


def read_table(
    location: RunLocation,
    table: str,
    columns: Sequence[str] | None = None,
    receipts: Iterable[Receipt] | None = None,
) -> pa.Table:
    """Return what `iter_table` yields as one table, in memory; without rows where nothing is committed."""
    schema = chosen_schema(table, columns)
    return pa.concat_tables([schema.empty_table(), *iter_table(location, table, columns, receipts)])


def read_part(file: BinaryIO, schema: pa.Schema, name: str) -> pa.Table:
    """Return the columns of `schema` from a part, cast to it; `name` is for errors.

    Raises:
        ConfigError: A later version of the package wrote it.
        TransientError: It does not read as Parquet.
    """
    parquet = open_parquet(file, name)
    check_version(parquet, name)
    known = [column for column in schema.names if column in parquet.schema_arrow.names]
    num_rows = parquet.metadata.num_rows
    try:
        found = parquet.read(columns=known, use_threads=False)
        columns = [
            found[field.name].cast(field.type) if field.name in known else pa.nulls(num_rows, field.type)
            for field in schema
        ]
    except (pa.ArrowException, OSError) as error:
        raise TransientError(damaged(name, error)) from error
    return pa.table(columns, schema=schema)


def chosen_schema(table: str, columns: Sequence[str] | None) -> pa.Schema:
    """Return the present schema of a table's columns, in the order given; all by default.

    Raises:
        ValueError: There is no such table or column.
    """
    _check_table(table)
    schema = SCHEMAS[table]
    names = schema.names if columns is None else list(columns)
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise ValueError(f"table {table} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def _check_table(table: str) -> None:
    if table not in SCHEMAS:
        raise ValueError(f"there is no table {table!r}; a run has {', '.join(SCHEMAS)}")


def check_version(parquet: pq.ParquetFile, name: str) -> None:
    """Refuse a part that a later version of the package wrote; `name` is for the error.

    Raises:
        ConfigError: It did.
    """
    metadata = parquet.schema_arrow.metadata or {}
    version = int(metadata.get(b"pseudoris.version", b"0"))
    if version > TABLES_VERSION:
        raise ConfigError(
            f"{name} has table version {version}, this package reads up to {TABLES_VERSION}: "
            "install the version of pseudoris that wrote it"
        )
