"""The tables of `annotate --profile-start`: where the time before the first commit went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from pseudoris.cli.console import format_bytes

if TYPE_CHECKING:
    from pseudoris.pipeline.start_profile import ProcessGroup, Span, StartReport


def start_view(report: StartReport) -> RenderableType:
    """Return the driver's steps, the workers' tasks, and the processes at the first commit."""
    return Group(
        _spans_table(f"start: {report.first_commit_s:.1f} s to the first commit", "step", report.steps),
        "",
        _spans_table("tasks of Ray's workers until then", "task", report.tasks),
        "",
        _processes_table(report.processes),
    )


def _spans_table(title: str, what: str, spans: Sequence[Span]) -> Table:
    table = _table(title, "began", "took", what)
    for span in spans:
        table.add_row(f"{span.began_s:.1f} s", f"{span.took_s:.1f} s", span.name)
    return table


def _processes_table(processes: Sequence[ProcessGroup]) -> Table:
    table = _table("processes of this machine at the first commit", "began", "CPU", "memory", "number", "process")
    for group in processes:
        shown = (
            (f"{group.began_s:.1f} s", format_bytes(group.pss_bytes), f"{group.count}") if group.count else ("",) * 3
        )
        began, memory, count = shown
        table.add_row(began, f"{group.cpu_s:.1f} s", memory, count, group.name)
    cpu_s, pss_bytes = (
        sum(values) for values in zip(*((each.cpu_s, each.pss_bytes) for each in processes), strict=True)
    )
    table.add_row("", f"{cpu_s:.1f} s", format_bytes(pss_bytes), f"{sum(each.count for each in processes)}", "together")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns[:-1]:
        table.add_column(column, justify="right")
    table.add_column(columns[-1])
    return table
