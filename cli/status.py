"""`pseudoris status`: how far a run is, from its output alone."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from cli import options
from cli.console import facts_table, format_bytes, stdout
from cli.progress import reasons_view
from store.location import RunLocation
from store.status import RunStatus, run_status


def status(out: options.Out) -> None:
    """Show how far a run is, alive or dead, from its receipts."""
    found = run_status(RunLocation.open(out))
    parts: list[RenderableType] = [_view(out, found)]
    if found.reasons:
        parts.append(reasons_view(dict(found.reasons)))
    stdout.print(Group(*parts))


def _view(out: str, found: RunStatus) -> Table:
    table = facts_table(f"{out}: {'complete' if found.is_complete else 'not complete; run annotate again to continue'}")
    table.add_row("source", found.source)
    table.add_row("shards", f"{found.num_done:,} of {found.num_shards:,}")
    table.add_row("images", f"{found.num_images_done:,} of {found.num_images:,}")
    table.add_row("", f"{found.annotated:,} annotated, {found.empty:,} empty, {found.quarantined:,} quarantined")
    table.add_row("masks", f"{found.masks:,}")
    table.add_row("candidates", f"{found.samples:,} drawn, {found.expressions:,} distinct, {found.kept:,} kept")
    table.add_row("seconds a stage", ", ".join(f"{stage} {value:.1f}" for stage, value in found.seconds.items()) or "–")
    table.add_row("output", format_bytes(found.size_bytes))
    return table
