"""Progress bar, interrupt and summary of runs without Ray: imports, refilters, PPT's recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pseudoris.cli.annotate import INTERRUPTED
from pseudoris.cli.console import facts_table, format_bytes, path_lines, report, report_stopped, stdout
from pseudoris.cli.progress import reasons_view
from pseudoris.pipeline.run_contract import table_globs
from pseudoris.store.location import RunLocation

if TYPE_CHECKING:
    from pseudoris.training.thread_executor import OnProgress, WrittenRun

WrittenT = TypeVar("WrittenT")
# Called before a wait, with a text that names the holder of the run.
OnWait = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of the summary, for one kind of run.

    Attributes:
        title: What was done; shown after the run's path.
        with_masks: Word for an image with masks.
        without_masks: Word for an image without masks.
    """

    title: str
    with_masks: str = "annotated"
    without_masks: str = "empty"


def write_with_bar(
    location: RunLocation, write: Callable[[OnProgress, OnWait], WrittenT], *, before: str, during: str
) -> WrittenT:
    """Return the result of `write`, with a progress bar; after an interrupt, report that nothing is lost.

    Args:
        location: Of the run.
        write: Called with two callbacks: for its progress, and for the text to show while it waits for the lock.
        before: Text beside the bar until the first report.
        during: Text beside the bar from then on.

    Raises:
        typer.Exit: It was interrupted.
    """
    is_planned = False
    try:
        with _bar(before, during) as show:

            def on_progress(done: int, total: int) -> None:
                nonlocal is_planned
                is_planned = True
                show(done, total)

            return write(on_progress, lambda text: report("note", text, "yellow"))
    except KeyboardInterrupt:
        if not is_planned:
            raise
        report_stopped(f"no committed shard in {location.root} is lost")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _bar(before: str, during: str) -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=stdout, transient=True) as progress:
        task = progress.add_task(before, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total, description=during)


def written_view(
    location: RunLocation,
    written: WrittenRun,
    wording: Wording,
    *,
    texts: Sequence[tuple[str, str]],
    left_out: Sequence[str] = (),
) -> RenderableType:
    """Return the summary of a written run: counts, quarantine by reason, paths; print with `soft_wrap=True`.

    Args:
        location: Of the run.
        written: Its counts.
        wording: The words for this kind of run.
        texts: Names and values of further rows, on its expressions.
        left_out: What was not taken over, each with its number.
    """
    totals = written.totals
    table = facts_table(f"{location.root}: {wording.title}")
    done = f"{totals.images:,} of {written.header.num_images:,}: {totals.annotated:,} {wording.with_masks}"
    table.add_row("images", f"{done}, {totals.empty:,} {wording.without_masks}, {totals.quarantined:,} quarantined")
    table.add_row("masks", f"{totals.masks:,}")
    for name, value in texts:
        table.add_row(name, value)
    table.add_row("output", format_bytes(totals.output_bytes))
    if written.num_shards_before:
        table.add_row("before", f"{written.num_shards_before:,} of {written.header.num_shards:,} shards were committed")
    for what in left_out:
        table.add_row("left out", what)
    parts: list[RenderableType] = [table]
    if totals.reasons:
        parts += ["", reasons_view(dict(totals.reasons))]
    return Group(*parts, "", path_lines("tables", table_globs(location.uri)))
