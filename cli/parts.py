"""`pseudoris parts`: the files that count, one a line, for a shell or any Parquet reader, also while the run goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from cli import options
from schemas.errors import ConfigError
from schemas.tables import EXPRESSIONS, SCHEMAS
from store.commit import part_path
from store.header import require_header
from store.location import RunLocation
from store.receipts import standing_receipts

ALL_TABLES = "all"


def parts(
    out: options.Out,
    table: Annotated[str, typer.Option("--table", help=f"One of {', '.join(SCHEMAS)}, or all.")] = EXPRESSIONS,
    as_json: Annotated[
        bool, typer.Option("--json", help="An object a line: path, table, shard, generation, rows, size, sha256.")
    ] = False,
) -> None:
    """List the parts that receipts name: what to read while a glob would also find leavings."""
    location = RunLocation.open(out)
    require_header(location)
    tables = _tables(table)
    for receipt in standing_receipts(location):
        for name in tables:
            part = receipt.parts[name]
            uri = location.uri(part_path(name, part))
            if not as_json:
                typer.echo(uri)
                continue
            place = {"path": uri, "table": name, "shard": receipt.shard, "generation": receipt.generation}
            typer.echo(json.dumps({**place, **part.model_dump(exclude={"name"})}))


def _tables(table: str) -> Sequence[str]:
    if table == ALL_TABLES:
        return tuple(SCHEMAS)
    if table not in SCHEMAS:
        raise ConfigError(f"there is no table {table!r}: give --table {', '.join(SCHEMAS)}, or {ALL_TABLES}")
    return (table,)
