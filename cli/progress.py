"""What a person sees while a run goes and when it ends: one bar, notices, one summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from pseudoris.cli.console import domain_lines, facts_table, format_bytes, format_seconds, kept_text, path_lines, stdout
from pseudoris.pipeline.run_contract import RunPlan, RunSummary
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.runs.pending_work import Committed, Notice, OnEvent, Planned, Retried, RunEvent, Step


class ImageRateColumn(ProgressColumn):
    """Images a second since the first shard began, as the summary counts them."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before the first commit."""
        rate = _images_per_second(task)
        return Text("–" if rate is None else f"{rate:.1f} images/s", style="dim")


class TimeLeftColumn(ProgressColumn):
    """Time left at the rate that `ImageRateColumn` shows."""

    # A clock that changes with every frame is not read.
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds, or dashes before the first commit."""
        rate = _images_per_second(task)
        if rate is None or task.remaining is None:
            return Text("-:--:--", style="progress.remaining")
        return Text(str(timedelta(seconds=round(task.remaining / rate))), style="progress.remaining")


def _images_per_second(task: Task) -> float | None:
    # Not rich's own speed: shards land in bunches, and between two that land together its window sees their images
    # and next to no time.
    elapsed = task.finished_time if task.finished else task.elapsed
    # What an earlier session committed took none of that time.
    num_images = task.completed - task.fields.get("num_images_before", 0)
    return num_images / elapsed if elapsed and num_images > 0 else None


class RunProgress:
    """Turns a run's events into one bar over images; quarantined ones are counted as they come.

    Without a terminal (`pseudoris demo > log`) there is no bar. Then a plain line says each tenth of the images.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self._verb = "annotating"
        self._quarantined = 0
        self._recovered = 0
        self._tenth = 0
        self._say("starting")

    def on_event(self, event: RunEvent) -> None:
        """Show `event`."""
        if isinstance(event, Step):
            self._progress.update(self._task, description=event.name)
        elif isinstance(event, Planned):
            self._start(event)
        elif isinstance(event, Committed):
            self._count(event)
        elif isinstance(event, Retried):
            self._count_retried(event)
        elif isinstance(event, Notice):
            self._progress.console.print(Text.assemble(("note", "yellow"), " ", event.text))

    def _start(self, event: Planned) -> None:
        actors = _actors(event.actors)
        self._verb = "retrying" if event.is_retry else "annotating"
        if event.num_shards_done:
            self._progress.console.print(
                f"continuing: {event.num_shards_done} of {event.num_shards} shards are already committed"
            )
        # A new task, so that the rate does not count the time of listing and planning.
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(
            f"{self._verb} ({actors or 'nothing left to do'})",
            total=event.num_images,
            completed=event.num_images_done,
            num_images_before=event.num_images_done,
        )
        self._tenth = self._tenths_done()
        self._say(f"{self._verb} ({actors or 'nothing left to do'}): {self._images_done()}")

    def _count(self, event: Committed) -> None:
        counts = event.receipt.counts
        self._quarantined += counts.quarantined
        note = f"annotating, {self._quarantined} quarantined" if self._quarantined else "annotating"
        self._advance(counts.images, note)

    def _count_retried(self, event: Retried) -> None:
        self._recovered += event.num_recovered
        note = f"retrying, {self._recovered:,} recovered"
        self._advance(event.num_images, note)

    def _advance(self, num_images: int, note: str) -> None:
        self._progress.update(self._task, advance=num_images, description=note)
        if self._tenths_done() > self._tenth:
            self._tenth = self._tenths_done()
            self._say(f"{note}: {self._images_done()}")

    def _tenths_done(self) -> int:
        (task,) = self._progress.tasks
        return int(10 * task.completed / task.total) if task.total else 0

    def _images_done(self) -> str:
        (task,) = self._progress.tasks
        return f"{int(task.completed):,} of {int(task.total or 0):,} images"

    def _say(self, text: str) -> None:
        if self._progress.disable:
            self._progress.console.print(text, soft_wrap=True)


@contextmanager
def run_progress(console: Console = stdout, clock: Callable[[], float] = time.monotonic) -> Iterator[OnEvent]:
    """Give a callback that shows a run's events on `console`, as a bar if it is a terminal; it ends with the block."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        ImageRateColumn(),
        TimeElapsedColumn(),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console, get_time=clock, disable=not console.is_terminal) as progress:
        yield RunProgress(progress).on_event


def summary_view(summary: RunSummary) -> RenderableType:
    """Return the summary of a run as tables: counts, quarantine by reason, seconds by stage, paths."""
    totals = summary.totals
    counts = facts_table("summary")
    done = f"{totals.images:,} of {summary.num_planned_images:,}"
    counts.add_row(
        "images", f"{done}: {totals.annotated:,} annotated, {totals.empty:,} empty, {totals.quarantined:,} quarantined"
    )
    counts.add_row("masks", f"{totals.masks:,}")
    counts.add_row("candidates", f"{totals.samples:,} drawn, {totals.expressions:,} distinct")
    counts.add_row("kept expressions", kept_text(totals.kept, totals.kept_lone, num_candidates=totals.expressions))
    counts.add_row("speed", _speed(summary))
    counts.add_row("seconds per stage", ", ".join(f"{stage} {value:.1f}" for stage, value in totals.seconds.items()))
    counts.add_row("output", format_bytes(totals.output_bytes))
    for name, text in _extras(summary):
        counts.add_row(name, text)
    parts: list[RenderableType] = [*domain_lines(summary.domain), counts]
    if totals.reasons:
        parts += ["", reasons_view(dict(totals.reasons))]
    return Group(*parts, "", path_lines("tables", summary.tables))


def _extras(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """Yield what most runs have none of."""
    totals, retry = summary.totals, summary.retry
    yield from (("left out", text) for text in summary.left_out)
    if retry is not None:
        changed = f"{retry.num_shards_changed:,} of {retry.num_shards:,} shards have a new generation"
        yield "retried", f"{retry.num_images:,} images, {retry.num_recovered:,} recovered; {changed}"
    if totals.repeats:
        yield "repeated", repeats_text(totals.repeats)
    if totals.degraded or totals.mixed:
        yield (
            "byte-reproducible",
            f"except {totals.degraded:,} degraded and {totals.mixed:,} mixed shards. "
            "Their bytes may differ in another run",
        )


def repeats_text(count: int) -> str:
    """Return what to say of work that was done twice."""
    return f"{count:,} attempts, after the loss of a process, node or driver"


def _speed(summary: RunSummary) -> str:
    if not summary.num_images_now:
        return "nothing to do: the run was complete" if summary.is_complete else "no image was committed"
    images = "1 image" if summary.num_images_now == 1 else f"{summary.num_images_now:,} images"
    taken = f"{format_seconds(summary.wall_s)} for {images}"
    return f"{summary.images_per_second:.1f} images/s, {taken}"


def reasons_view(reasons: dict[str, int]) -> Table:
    """Return the quarantined images by reason, the most frequent first."""
    table = facts_table("quarantined")
    for reason, count in reasons.items():
        table.add_row(f"{count:>5,}  {reason}", FAILURE_REASONS.get(reason, ""))
    return table


def plan_view(plan: RunPlan) -> RenderableType:
    """Return what a dry run found: nothing of it has been written."""
    table = facts_table("plan (dry run: nothing was written)")
    repeated = f"; {plan.num_repeated:,} repeated listings are not counted" if plan.num_repeated else ""
    done = f", {plan.num_shards_done:,} of them committed already" if plan.num_shards_done else ""
    table.add_row("source", plan.source)
    table.add_row("output", plan.out)
    table.add_row("images", f"{plan.num_images:,} ({format_bytes(plan.input_bytes)}){repeated}")
    table.add_row("shards", f"{plan.num_shards:,}{done}")
    if plan.num_excluded:
        table.add_row("excluded", f"{plan.num_excluded:,} listed images are not planned")
    for text in plan.left_out:
        table.add_row("left out", text)
    if plan.extension is not None:
        known = f"{plan.extension.num_changed:,} planned images changed, {plan.extension.num_vanished:,} missing"
        table.add_row(
            "extension", f"{plan.extension.num_new:,} images in {plan.extension.num_shards:,} shards; {known}"
        )
    if plan.num_to_retry is not None:
        table.add_row("to retry", f"{plan.num_to_retry:,} quarantined images")
    table.add_row("actors", _actors(plan.actors))
    table.add_row("device", plan.device_kind)
    for stage, (uri, digest) in plan.weights.items():
        table.add_row(f"weights: {stage}", f"{uri}  sha256 {digest[:12]}…")
    table.add_row("estimated output", f"{format_bytes(plan.output_bytes)} ({plan.output_basis})")
    return Group(*domain_lines(plan.domain), table)


def _actors(by_pool: Mapping[str, int]) -> str:
    """Return "2 actors", or "1 propose, 2 caption and 1 filter actors"; empty if none is needed."""
    if not by_pool:
        return ""
    if set(by_pool) == {"fused"}:
        return "1 actor" if by_pool["fused"] == 1 else f"{by_pool['fused']} actors"
    *before, last = [f"{count} {pool}" for pool, count in by_pool.items()]
    return f"{', '.join(before)} and {last} actors" if before else f"{last} actors"
