"""`pseudoris parts`: the files that count, one a line, for a shell or any Parquet reader, also while the run goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pseudoris.cli import options
from pseudoris.cli.console import echo, echo_json
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.receipts import latest_receipts, part_path

ALL_TABLES = "all"


def parts(
    out: options.Out,
    table: Annotated[str, typer.Option("--table", help=f"Table to list: {', '.join(SCHEMAS)}, or all.")] = EXPRESSIONS,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object per line: path, table, shard, generation, rows, size, sha256."
        ),
    ] = False,
) -> None:
    """List the committed files of a table, also during a run.

    A glob would also find files that were never committed.
    """
    location = RunLocation.open_to_read(out)
    require_header(location)
    tables = _tables(table)
    for receipt in latest_receipts(location):
        for name in tables:
            part = receipt.parts[name]
            uri = location.uri(part_path(name, part))
            if not as_json:
                echo(uri)
                continue
            place = {"path": uri, "table": name, "shard": receipt.shard, "generation": receipt.generation}
            echo_json({**place, **part.model_dump(exclude={"name"})})


def _tables(table: str) -> Sequence[str]:
    if table == ALL_TABLES:
        return tuple(SCHEMAS)
    if table not in SCHEMAS:
        raise ConfigError(f"There is no table {table!r}. Give --table {', '.join(SCHEMAS)}, or {ALL_TABLES}.")
    return (table,)
