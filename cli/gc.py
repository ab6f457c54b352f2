"""`pseudoris gc`: delete what no reader of a run will ever want; safe at any time, beside a run too."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cli import options
from cli.console import facts_table, format_bytes, stdout
from store.gc import GcReport, run_gc
from store.header import require_header
from store.location import RunLocation


def gc(
    out: options.Out,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and delete nothing.")] = False,
) -> None:
    """Delete parts that lost or were superseded, and what killed writers left. A run ends with it by itself."""
    location = RunLocation.open(out)
    # Elsewhere it would find nothing to delete and say so, as if all were well.
    require_header(location)
    report = run_gc(location, is_dry=dry_run)
    if dry_run:
        for path in report.deleted:
            typer.echo(location.uri(path))
    stdout.print(_view(out, report, is_dry=dry_run))


def _view(out: str, report: GcReport, *, is_dry: bool) -> Table:
    what = "would be deleted (dry run: nothing was)" if is_dry else "deleted"
    table = facts_table(f"{out}: {len(report.deleted):,} files {what}")
    table.add_row("lost", f"{len(report.lost):,} parts of writers who came second")
    table.add_row("superseded", f"{len(report.superseded):,} parts of generations before a retry")
    table.add_row("abandoned", f"{len(report.abandoned):,} unfinished files of killed writers")
    if report.num_uploads:
        table.add_row("uploads", f"{report.num_uploads:,} begun by killed writers and never completed")
    table.add_row("freed", format_bytes(report.freed_bytes))
    return table
