"""Shows what a run holds as tables for the terminal: counts, quarantine by reason, paths.

Called by `annotate`, `import_annotation`, `ppt`, `run_state` and `run_contents`, so that each figure has the same name
and form in all of them. It prints nothing itself, and reads no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from pseudoris.cli import formats
from pseudoris.cli.progress import actors_text
from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import DryRun, RunSummary, table_globs
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.runs.receipts import RunTotals

if TYPE_CHECKING:
    from pseudoris.store.checks.verification import VerifyReport
    from pseudoris.store.sessions.thread_executor import WrittenRun


def counts_text(counts: RunTotals | VerifyReport, words: tuple[str, str] = ("annotated", "empty")) -> str:
    """Return how many images came to which end; `words` are for those with masks, and for those without."""
    return f"{counts.annotated:,} {words[0]}, {counts.empty:,} {words[1]}, {counts.quarantined:,} quarantined"


def totals_rows(totals: RunTotals, num_images: int) -> Iterator[tuple[str, str]]:
    """Yield what a run with `num_images` planned images holds, for `facts_table`; what most runs lack comes last."""
    yield "images", f"{totals.images:,} of {num_images:,}: {counts_text(totals)}"
    yield "masks", f"{totals.masks:,}"
    yield "candidates", f"{totals.samples:,} drawn, {totals.expressions:,} distinct"
    if totals.long_texts:
        yield "left out", f"{totals.long_texts:,} draws, longer than the filter reads"
    yield "kept expressions", formats.kept_text(totals)
    yield "seconds per stage", ", ".join(f"{stage} {value:.1f}" for stage, value in totals.seconds.items()) or "–"
    yield "output", formats.format_bytes(totals.output_bytes)
    if totals.empty_sentence:
        yield "empty images", totals.empty_sentence
    for note, count in totals.notes.items():
        yield "noted", f"{formats.counted(count, 'image')}: {note}"
    if totals.wide_sentence:
        yield "wide decisions", totals.wide_sentence
    if totals.repeats:
        yield "repeated", f"{totals.repeats:,} attempts, after a stop, or the loss of a process, node or driver"
    if totals.degraded or totals.mixed:
        own = f"{totals.degraded:,} degraded and {totals.mixed:,} mixed shards"
        yield "byte-reproducible", f"all except {own}. Their bytes may differ in another run"


def summary_view(summary: RunSummary) -> RenderableType:
    """Return the summary of a run as tables: counts, speed, quarantine by reason, paths."""
    counts = formats.facts_table("summary", totals_rows(summary.totals, summary.num_planned_images))
    if summary.copies is not None:
        counts.add_row("copies", f"{summary.copies}")
    complete = "nothing to do: the run was complete. --extend adds images that SOURCE got since"
    speed = complete if summary.is_complete else "no image was committed"
    if summary.num_images_now:
        taken = f"{formats.format_seconds(summary.wall_s)} for {formats.counted(summary.num_images_now, 'image')}"
        speed = f"{summary.speed}; this command took {taken}, with its start"
    counts.add_row("speed", speed)
    for text in summary.left_out:
        counts.add_row("left out", text)
    if retry := summary.retry:
        changed = f"{retry.num_shards_changed:,} of {formats.counted(retry.num_shards, 'shard')} got a new generation"
        counts.add_row(
            "retried", f"{formats.counted(retry.num_images, 'image')}, {retry.num_recovered:,} recovered; {changed}"
        )
    after = [*reasons_views(summary.totals), "", formats.path_lines("tables", summary.tables)]
    return Group(*formats.warning_lines(summary.warning), counts, *after)


def reasons_views(totals: RunTotals) -> list[RenderableType]:
    """Return the quarantined images by reason, the most frequent first; empty if there are none."""
    rows = ((f"{count:>5,}  {reason}", FAILURE_REASONS.get(reason, "")) for reason, count in totals.reasons.items())
    return ["", formats.facts_table("quarantined", rows)] if totals.reasons else []


def plan_view(plan: DryRun) -> RenderableType:
    """Return what a dry run found: nothing of it has been written."""
    table = formats.facts_table("plan (dry run: nothing was written)")
    repeated = f"; {plan.num_repeated:,} repeated listings are not counted" if plan.num_repeated else ""
    done = f", {plan.num_shards_done:,} of them committed already" if plan.num_shards_done else ""
    table.add_row("source", plan.source)
    table.add_row("output", plan.out)
    table.add_row("images", f"{plan.num_images:,} ({formats.format_bytes(plan.input_bytes)}){repeated}")
    table.add_row("shards", f"{plan.num_shards:,}{done}")
    if plan.num_excluded:
        table.add_row("excluded", f"{plan.num_excluded:,} listed images are not planned")
    for text in plan.left_out:
        table.add_row("left out", text)
    if (new := plan.extension) is not None:
        known = f"{new.num_changed:,} planned images changed, {new.num_vanished:,} missing"
        images, shards = formats.counted(new.num_images, "image"), formats.counted(new.num_shards, "shard")
        table.add_row("extension", f"{images} in {shards}; {known}")
    if plan.num_to_retry is not None:
        table.add_row("to retry", formats.counted(plan.num_to_retry, "quarantined image"))
    if plan.num_to_repair is not None:
        table.add_row("to repair", f"{plan.num_to_repair:,} shards with missing or damaged parts")
    table.add_row("actors", actors_text(plan.actors))
    table.add_row("device", plan.device_kind)
    if plan.decoder:
        table.add_row("captions by", plan.decoder)
    if plan.by_card:
        table.add_row("by the card", plan.by_card)
    for stage, (uri, digest) in plan.weights.items():
        table.add_row(f"weights: {stage}", f"{uri}  sha256 {digest[:12]}…")
    table.add_row("estimated output", f"{formats.format_bytes(plan.output_bytes)} ({plan.output_basis})")
    return table


def written_view(
    location: RunLocation,
    written: WrittenRun,
    title: str,
    *,
    texts: Sequence[tuple[str, str]],
    words: tuple[str, str] = ("annotated", "empty"),
    left_out: Sequence[str] = (),
) -> RenderableType:
    """Return the summary of a written run; print with `soft_wrap=True`.

    `title` says what was done, `texts` are rows on the expressions, `words` as in `counts_text`, and each line of
    `left_out` says what was not taken over, with its number.
    """
    totals = written.totals
    table = formats.facts_table(f"{location.root}: {title}")
    table.add_row("images", f"{totals.images:,} of {written.header.num_images:,}: {counts_text(totals, words)}")
    table.add_row("copies", f"{written.copies}")
    table.add_row("masks", f"{totals.masks:,}")
    for row in texts:
        table.add_row(*row)
    table.add_row("output", formats.format_bytes(totals.output_bytes))
    if written.num_shards_before:
        table.add_row("before", f"{written.num_shards_before:,} of {written.header.num_shards:,} shards were committed")
    for what in left_out:
        table.add_row("left out", what)
    return Group(table, *reasons_views(totals), "", formats.path_lines("tables", table_globs(location.uri)))
