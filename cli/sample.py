"""`pseudoris sample`: prints a few expressions of a run as a table, CSV or JSON."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import echo_json, kept_text, stdout
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.printable import printable
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.tables.run_reader import COLUMNS, sample_expressions

DEFAULT_ROWS = 20
_MAX_HEADER = 15
DEFAULT_COLUMNS = "key,text,distinctiveness,correctness,decoder,crop"


def sample(
    out: options.Out,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Number of rows.")] = DEFAULT_ROWS,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
    columns: Annotated[
        str, typer.Option(help=f"Columns to show, separated by commas: {', '.join(COLUMNS)}.")
    ] = DEFAULT_COLUMNS,
    all_candidates: Annotated[
        bool, typer.Option("--all", help="Draw from all candidates, not only from kept expressions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print comma-separated values with a header; lists are JSON.")
    ] = False,
) -> None:
    """Show expressions drawn evenly over the run.

    Only the shards that hold them are read.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other. Give one.")
    names = [name.strip() for name in columns.split(",")]
    location = RunLocation.open_to_read(out)
    table = sample_expressions(location, rows, columns=names, seed=seed, kept_only=not all_candidates)
    found = table.to_pylist()
    if as_json:
        for row in found:
            echo_json(row)
    elif as_csv:
        _write_csv(names, found)
    else:
        stdout.print(_sample_view(names, found))
        if not all_candidates:
            _print_unfiltered(location)


def _print_unfiltered(location: RunLocation) -> None:
    found = run_status(location)
    if found.kept_lone:
        kept = kept_text(found.kept, found.kept_lone, num_candidates=found.expressions)
        stdout.print(f"\nThe run keeps {kept}.", soft_wrap=True)


def _write_csv(names: list[str], rows: list[dict[str, Any]]) -> None:
    # Another program gets the values as they are; a terminal would obey them.
    shown = printable if sys.stdout.isatty() else str
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: None if value is None else shown(str(_flat(value))) for name, value in row.items()})


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _sample_view(names: list[str], rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold", min_width=min(len(name), _MAX_HEADER))
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(_flat(value)))
