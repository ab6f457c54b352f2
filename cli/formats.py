"""Numbers, tables, paths and commands written for a person. Called by all commands and by examples.

Nothing here prints: `console` does, and spells the control characters of what strangers named.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pseudoris.primitives.untrusted import printable
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.store.tables.kept_clauses import KeptClause

if TYPE_CHECKING:
    from pseudoris.store.sessions.thread_executor import WrittenRun

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def kept_text(totals: RunTotals) -> str:
    """Return how many candidates are kept, how many of them were compared with no other mask, and how many per mask."""
    alone = f", {totals.kept_lone:,} of them unfiltered (their mask is alone in its image)" if totals.kept_lone else ""
    return f"{totals.kept:,} of {totals.expressions:,} candidates{alone}; {totals.per_mask}"


def counted(number: int, noun: str) -> str:
    """Return "1 image" or "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def next_lines(out: str, *, composes_for_any_captioner: bool = False, moved: Sequence[str] = ()) -> Text:
    """Return what to do with a run that is complete; print with `soft_wrap=True`.

    `moved` is where SOURCE is now, and where it was: a command that computes needs both, one that reads the first. The
    former also needs the words behind them, which the run was made with.
    """
    lines = {"check": command("verify", out), "figures": command("stats", out)}
    if composes_for_any_captioner:
        lines["composer's units"] = command("calibrate", out, "--composer", "--to", "fitted.yaml")
        lines["compose anew"] = command("refilter", out, "NEW", "--weights", "fitted.yaml")
    if moved:
        now, was, *given = moved
        lines["add new images"] = command("annotate", now, out, *given, "--moved-from", was, "--extend")
        lines["look"] = command("gallery", out, "--source", now)
    return path_lines("next", lines)


def format_bytes(size_bytes: float) -> str:
    """Return a size with three digits at most and a binary unit, `1.4 GiB`."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_BINARY_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.0f} {_BINARY_UNITS[0]}" if unit == 0 else f"{size_bytes:.1f} {_BINARY_UNITS[unit]}"


def format_seconds(seconds: float) -> str:
    """Return a duration as `4.2 s`, `3 min 20 s` or `5 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def facts_table(title: str, rows: Iterable[tuple[str, str]] = ()) -> Table:
    """Return a table of two columns, a name and its value; `add_row` adds more rows."""
    table = columns_table(("", ""), rows, title=title, num_texts=2)
    table.show_header = False
    table.columns[0].style = "dim"
    return table


def add_clauses(table: Table, clauses: Iterable[KeptClause]) -> None:
    """Add what a run keeps to a table of facts, a row for each clause."""
    for number, clause in enumerate(clauses):
        table.add_row("" if number else "keeps", Text(printable(f"{clause.words}.")))


def add_written(table: Table, found: WrittenRun) -> None:
    """Add what a run that was made out of others holds to a table of facts."""
    totals = found.totals
    table.add_row("images, masks", f"{totals.images:,}, {totals.masks:,}")
    table.add_row("kept expressions", kept_text(totals))
    table.add_row("copies", f"{found.copies}")
    earlier = f", {found.num_shards_before:,} of them by an earlier call" if found.num_shards_before else ""
    table.add_row("shards", f"{totals.shards:,}{earlier}")
    table.add_row("output", format_bytes(totals.output_bytes))


def columns_table(
    headers: Sequence[str], rows: Iterable[Sequence[str | Text]] = (), *, title: str | None = None, num_texts: int = 1
) -> Table:
    """Return a table with one column per header; those after the first `num_texts` hold figures, on the right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        # Columns of numbers have little padding, so that eight of them fit into 80 letters.
        padding=(0, 1 if num_texts == 1 else 2, 0, 0),
        min_width=len(title or ""),
    )
    for index, header in enumerate(headers):
        is_text = index < num_texts
        # A path longer than the terminal is wrapped, not cut, because the end of a path matters.
        table.add_column(header, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*row)
    return table


def warning_lines(warning: str | None) -> list[RenderableType]:
    """Return what stands above the figures of a run whose models may not know its images; empty without a warning."""
    return [] if warning is None else [Text(warning, "bold yellow"), ""]


def path_lines(title: str, lines: Mapping[str, str]) -> Text:
    """Return names and their paths or commands, one per line; print with `soft_wrap=True`, so that each copies well."""
    width = max(map(len, lines))
    rows = [Text.assemble("\n", (f"{name:<{width}}", "dim"), "  ", printable(line)) for name, line in lines.items()]
    return Text.assemble((printable(title), "bold"), *rows)


def command(*arguments: str) -> str:
    """Return a `pseudoris` command as it can be pasted into a shell, also where the program is not on the path."""
    program = "pseudoris"
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.exists():
        program = os.path.relpath(beside)
    return shlex.join([program, *arguments])
