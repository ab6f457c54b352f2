"""`pseudoris export`: a finished run in another form; what is written is read back before it counts."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from cli import options
from cli.console import facts_table, format_bytes, stdout
from schemas.errors import ConfigError
from schemas.run import Receipt, RunHeader
from store.header import require_header
from store.location import RunLocation
from store.receipts import standing_receipts
from training.exports import WRITING, ExportReport, ExportRequest, find_export

DEFAULT_TARGET_MB = 256
_MB = 10**6


def export(
    out: options.Out,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="Empty folder or url that gets the export.", show_default=False)
    ],
    export_format: Annotated[str, typer.Option("--format", help="parquet: the tables in few large files.")] = "parquet",
    target_mb: Annotated[
        int, typer.Option("--target-mb", min=1, max=4_096, help="Size of a file; 128 to 512 suits most readers.")
    ] = DEFAULT_TARGET_MB,
    partial: Annotated[bool, typer.Option("--partial", help="Export what is committed of an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that stands in DEST.")] = False,
) -> None:
    """Write a finished run in the form that another reader wants, and read it back."""
    chosen = find_export(export_format)
    run, target = RunLocation.open(out), RunLocation.open(destination)
    header = require_header(run)
    if target.root == run.root or target.root.startswith(f"{run.root}/"):
        raise ConfigError(f"DEST {destination!r} lies in the run: name another place, so that its folders stay exact")
    receipts = list(standing_receipts(run))
    _check_complete(header, receipts, is_partial=partial)
    request = ExportRequest(run, header, receipts, target, target_mb * _MB, is_overwriting=overwrite)
    with Progress(console=stdout, transient=True) as progress:
        task = progress.add_task(WRITING, total=None)

        def show(done: int, total: int, /, stage: str = WRITING) -> None:
            progress.update(task, completed=done, total=total, description=stage)

        report = chosen.write(request, show)
    stdout.print(_view(destination, report, header, receipts), soft_wrap=True)


def _check_complete(header: RunHeader, receipts: list[Receipt], *, is_partial: bool) -> None:
    if not receipts:
        raise ConfigError("nothing of the run is committed yet: there is nothing to export")
    if len(receipts) < header.num_shards and not is_partial:
        raise ConfigError(
            f"{len(receipts):,} of {header.num_shards:,} shards are committed: finish the run with the same `annotate` "
            "command, or export what there is with --partial"
        )


def _view(destination: str, report: ExportReport, header: RunHeader, receipts: list[Receipt]) -> Table:
    table = facts_table(f"{destination}: written and read back")
    images = sum(receipt.counts.images for receipt in receipts)
    table.add_row("images", f"{images:,} of {header.num_images:,} planned")
    for name, rows in report.rows.items():
        table.add_row(name, f"{rows:,} rows in {report.files[name]:,} file(s)")
    table.add_row("size", format_bytes(report.size_bytes))
    return table
