"""Progress of commands: one bar on a terminal or in a notebook, else a line for each tenth. Called by most commands.

`pseudoris.annotate` shows the bar of notebooks. A bar ends with its block, also after an error. A command says that
nothing is lost only if a plan stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pseudoris.cli.console import note, report_stopped, stderr, stdout
from pseudoris.cli.formats import counted
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import TransientError
from pseudoris.primitives.templates import html_text, notebook_display
from pseudoris.store.runs.pending_work import Committed, Notice, OnEvent, Planned, Retried, RunEvent, Step

INTERRUPTED: Final = 130
WrittenT = TypeVar("WrittenT")
_COLUMNS: Final = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())


class Bar:
    """Shows how much of some work is done. Called with what is done, the whole, and a text if it changes."""

    def __init__(self, progress: Progress, text: str, amount: Callable[[int, int], str] | None) -> None:
        self._progress, self._text, self._amount = progress, text, amount
        self._task = progress.add_task(text, total=None, visible=bool(text))
        self._last: tuple[int, int] | None = None
        if text:
            self._say(text)

    def __call__(self, done: int, total: int | None, text: str | None = None) -> None:
        """Show `done` of `total`; None for a total that is not known."""
        self.describe(self._text if text is None else text)
        self._progress.update(self._task, completed=done, total=total)
        tenth = (10 * done // max(total or 0, 1), total or 0)
        if total and tenth != self._last and self._amount is not None:
            self._last = tenth
            self._say(f"{self._text}: {self._amount(done, total)}")

    def named(self, text: str) -> Callable[[int, int | None], None]:
        """Return a callback that shows progress below this text."""
        return lambda done, total: self(done, total, text)

    def describe(self, text: str) -> None:
        """Change the text alone."""
        self._text = text
        self._progress.update(self._task, description=text, visible=True)

    def begin(self, text: str) -> None:
        """Change the text, and print it where no bar shows it: what comes may take long before it is counted."""
        self.describe(text)
        self._say(text)

    def restart(self, done: int) -> None:
        """Start the clocks. `done` was done before: no rate counts it."""
        self._progress.reset(self._task, completed=done, done_before=done)

    def print(self, text: str | Text) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text)

    def _say(self, text: str) -> None:
        if self._amount is not None and not self._progress.console.is_terminal:
            self._progress.console.print(text, soft_wrap=True)


@contextmanager
def bar(
    text: str = "",
    *,
    columns: Sequence[ProgressColumn] = (*_COLUMNS, TimeElapsedColumn(), TimeRemainingColumn()),
    amount: Callable[[int, int], str] | None = None,
    console: Console = stderr,
    clock: Callable[[], float] = time.monotonic,
    is_transient: bool = True,
) -> Iterator[Bar]:
    """Give a bar that ends with the block; without a text it is hidden until it is first called.

    On a console that is no terminal it prints lines instead, if `amount` has words for what is done and the whole. A
    transient bar leaves no trace. Tests give the clock.
    """
    has_bar = console.is_terminal
    with Progress(*columns, console=console, get_time=clock, disable=not has_bar, transient=is_transient) as progress:
        yield Bar(progress, text, amount)


class ImageRateColumn(ProgressColumn):
    """Images per second of this session, since its first shard began."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before the first commit."""
        rate = _images_per_second(task)
        return Text("–" if rate is None else f"{rate:.1f} images/s", style="dim")


class TimeLeftColumn(ProgressColumn):
    """Time left at the rate that `ImageRateColumn` shows."""

    # The time left changes once in this many seconds, because a clock that changes with every frame cannot be read.
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds, or dashes before the first commit."""
        rate = _images_per_second(task)
        if rate is None or task.remaining is None:
            return Text("-:--:--", style="progress.remaining")
        return Text(str(timedelta(seconds=round(task.remaining / rate))), style="progress.remaining")


def _images_per_second(task: Task) -> float | None:
    # The rate is the mean since the start. Rich's own rate is of a short window, and jumps as shards end in bunches.
    elapsed = task.finished_time if task.finished else task.elapsed
    num_images = task.completed - task.fields.get("done_before", 0)
    return num_images / elapsed if elapsed and num_images > 0 else None


class RunProgress:
    """Turns a run's events into one bar over images; quarantined ones are counted as they come."""

    def __init__(self, show: Bar) -> None:
        self._show = show
        self._done = self._total = self._quarantined = self._recovered = 0

    def on_event(self, event: RunEvent) -> None:
        """Show `event`."""
        if isinstance(event, Step):
            self._show.begin(event.name)
        elif isinstance(event, Planned):
            if event.num_shards_done:
                told = f"continuing: {event.num_shards_done} of {event.num_shards} shards are already committed"
                self._show.print(told)
            self._total = event.num_images
            # The bar is restarted, so that its rate leaves out the planning and the images of earlier sessions.
            self._show.restart(event.num_images_done)
            verb = "retrying" if event.is_retry else "annotating"
            self._advance(event.num_images_done, f"{verb} ({actors_text(event.actors) or 'nothing left to do'})")
        elif isinstance(event, Committed):
            self._quarantined += event.receipt.counts.quarantined
            note = f", {self._quarantined} quarantined" if self._quarantined else ""
            self._advance(event.receipt.counts.images, f"annotating{note}")
        elif isinstance(event, Retried):
            self._recovered += event.num_recovered
            self._advance(event.num_images, f"retrying, {self._recovered:,} recovered")
        elif isinstance(event, Notice):
            self._show.print(Text.assemble(("note", "yellow"), " ", event.text))

    def _advance(self, num_images: int, text: str) -> None:
        self._done += num_images
        self._show(self._done, self._total, text)


class _NotebookBar(Bar):
    """A bar that a notebook draws without widgets, and keeps with the cell's output."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._text, self._handle = "", display({"text/plain": "starting"}, raw=True, display_id=True)

    def __call__(self, done: int, total: int | None, text: str | None = None) -> None:
        self._text = self._text if text is None else text
        plain = f"{self._text}: {done:,} of {total or 0:,} images"
        html = f'<progress value="{done}" max="{total or 1}"></progress> {html_text(plain)}'
        self._handle.update({"text/plain": plain, "text/html": html}, raw=True)

    def describe(self, text: str) -> None:
        self._handle.update({"text/plain": text}, raw=True)

    begin = describe

    def restart(self, done: int) -> None:
        """Nothing to do: it has no clock."""

    def print(self, text: str | Text) -> None:
        stdout.print(text)


def notebook_progress() -> OnEvent:
    """Return a callback that shows a run's events as a bar in a notebook, and nothing elsewhere."""
    display = notebook_display()
    return (lambda event: None) if display is None else RunProgress(_NotebookBar(display)).on_event


@contextmanager
def run_progress(console: Console = stdout, clock: Callable[[], float] = time.monotonic) -> Iterator[OnEvent]:
    """Give a callback that shows a run's events on `console`, as a bar if it is a terminal; it ends with the block."""
    columns = (SpinnerColumn(), *_COLUMNS, ImageRateColumn(), TimeElapsedColumn(), TimeLeftColumn())
    with bar(
        "starting",
        columns=columns,
        amount=lambda done, total: f"{done:,} of {total:,} images",
        console=console,
        clock=clock,
        is_transient=False,
    ) as show:
        yield RunProgress(show).on_event


def actors_text(by_pool: Mapping[str, int]) -> str:
    """Return "2 actors", or "1 propose, 2 caption and 1 filter actors"; empty if none is needed."""
    if not by_pool:
        return ""
    if set(by_pool) == {"fused"}:
        return counted(by_pool["fused"], "actor")
    *before, last = [f"{count} {pool}" for pool, count in by_pool.items()]
    return f"{', '.join(before)} and {last} actors" if before else f"{last} actors"


@contextmanager
def resumable(out: str) -> Iterator[Event]:
    """Say that nothing is lost if an interrupt or a failure ends the block once it has set the event: a plan stands."""
    planned = Event()
    try:
        yield planned
    except (KeyboardInterrupt, TransientError) as error:
        if not planned.is_set():
            raise
        if isinstance(error, TransientError):
            raise TransientError(f"{error}\nNo committed shard in {out} is lost.") from error
        report_stopped(f"no committed shard in {out} is lost")
        raise typer.Exit(INTERRUPTED) from None


def write_with_bar(location: RunLocation, write: Callable[..., WrittenT], *, before: str, during: str) -> WrittenT:
    """Return the result of `write`, which writes the run at `location` without Ray, with a progress bar.

    `write` is called with `on_progress`, and with `on_wait` for the text while it waits for the lock. The bar has the
    text `before` until the first report, then `during`. After an interrupt the user reads that nothing is lost.
    """
    with resumable(location.root) as planned, bar(before) as show:

        def on_progress(done: int, total: int) -> None:
            planned.set()
            show(done, total, during)

        return write(on_progress=on_progress, on_wait=note)
