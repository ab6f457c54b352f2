"""`pseudoris gc`: delete files of failed or replaced attempts; safe at any time, also while a run goes on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import echo, facts_table, format_bytes, stdout
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.garbage import GcReport, run_gc
from pseudoris.store.runs.header import require_header


def gc(
    out: options.Out,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete files of failed or replaced attempts. Every run does this at its end."""
    location = RunLocation.open(out)
    # Elsewhere it would find nothing to delete and say so, as if all were well.
    require_header(location)
    report = run_gc(location, is_dry=dry_run)
    if dry_run:
        for path in report.deleted:
            echo(location.uri(path))
    stdout.print(_garbage_view(out, report, is_dry=dry_run))


def _garbage_view(out: str, report: GcReport, *, is_dry: bool) -> Table:
    what = "would be deleted (dry run)" if is_dry else "deleted"
    table = facts_table(f"{out}: {len(report.deleted):,} files {what}")
    table.add_row("lost", f"{len(report.lost):,} parts of shards that another process committed first")
    table.add_row("superseded", f"{len(report.superseded):,} parts that a retry replaced")
    table.add_row("abandoned", f"{len(report.abandoned):,} unfinished files of killed processes")
    if report.num_uploads:
        table.add_row("uploads", f"{report.num_uploads:,} unfinished uploads of killed processes")
    table.add_row("freed", format_bytes(report.freed_bytes))
    return table
