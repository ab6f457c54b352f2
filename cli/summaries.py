"""What a run holds when a command has ended or planned it: counts, quarantine by reason, paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from pseudoris.cli.console import domain_lines, facts_table, format_bytes, format_seconds, kept_text, path_lines
from pseudoris.cli.progress import actors_text
from pseudoris.pipeline.run_contract import RunPlan, RunSummary, table_globs
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import RunTotals

if TYPE_CHECKING:
    from pseudoris.training.thread_executor import WrittenRun


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
    return Group(*domain_lines(summary.domain), counts, *_reasons(totals), "", path_lines("tables", summary.tables))


def _reasons(totals: RunTotals) -> list[RenderableType]:
    return ["", reasons_view(totals.reasons)] if totals.reasons else []


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
        yield "byte-reproducible", f"except {outside_text(totals.degraded, totals.mixed)}"


def outside_text(degraded: int, mixed: int) -> str:
    """Return which shards have bytes of their own."""
    return f"{degraded:,} degraded and {mixed:,} mixed shards. Their bytes may differ in another run"


def repeats_text(count: int) -> str:
    """Return what to say of work that was done twice."""
    return f"{count:,} attempts, after the loss of a process, node or driver"


def _speed(summary: RunSummary) -> str:
    if not summary.num_images_now:
        return "nothing to do: the run was complete" if summary.is_complete else "no image was committed"
    images = "1 image" if summary.num_images_now == 1 else f"{summary.num_images_now:,} images"
    taken = f"{format_seconds(summary.wall_s)} for {images}"
    return f"{summary.images_per_second:.1f} images/s, {taken}"


def reasons_view(reasons: Mapping[str, int]) -> Table:
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
    table.add_row("actors", actors_text(plan.actors))
    table.add_row("device", plan.device_kind)
    for stage, (uri, digest) in plan.weights.items():
        table.add_row(f"weights: {stage}", f"{uri}  sha256 {digest[:12]}…")
    table.add_row("estimated output", f"{format_bytes(plan.output_bytes)} ({plan.output_basis})")
    return Group(*domain_lines(plan.domain), table)


def written_view(
    location: RunLocation,
    written: WrittenRun,
    title: str,
    *,
    texts: Sequence[tuple[str, str]],
    words: tuple[str, str] = ("annotated", "empty"),
    left_out: Sequence[str] = (),
) -> RenderableType:
    """Return the summary of a written run: counts, quarantine by reason, paths; print with `soft_wrap=True`.

    Args:
        location: Of the run.
        written: Its counts.
        title: What was done; shown after the run's path.
        texts: Names and values of further rows, on its expressions.
        words: For an image with masks, and for one without.
        left_out: What was not taken over, each with its number.
    """
    totals = written.totals
    table = facts_table(f"{location.root}: {title}")
    done = f"{totals.images:,} of {written.header.num_images:,}: {totals.annotated:,} {words[0]}"
    table.add_row("images", f"{done}, {totals.empty:,} {words[1]}, {totals.quarantined:,} quarantined")
    table.add_row("masks", f"{totals.masks:,}")
    for name, value in texts:
        table.add_row(name, value)
    table.add_row("output", format_bytes(totals.output_bytes))
    if written.num_shards_before:
        table.add_row("before", f"{written.num_shards_before:,} of {written.header.num_shards:,} shards were committed")
    for what in left_out:
        table.add_row("left out", what)
    return Group(table, *_reasons(totals), "", path_lines("tables", table_globs(location.uri)))
