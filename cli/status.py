"""`pseudoris status`: how far a run is and how fast it goes, from its output alone."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import echo_json, facts_table, format_bytes, format_seconds, kept_text, report, stdout
from pseudoris.cli.summaries import reasons_view, repeats_text
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.run_status import DRIVER_ALIVE, DRIVER_SILENT, RunStatus, StatusReader
from pseudoris.store.runs.header import read_header

DEFAULT_EVERY_S = 5.0


def status(
    out: options.Out,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until the run is complete. Waits for it to begin.")
    ] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=0.5, help="Seconds between two refreshes.")
    ] = DEFAULT_EVERY_S,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; with --watch one per line.")] = False,
) -> None:
    """Show the progress of a run, from its files alone. The run may be stopped."""
    location = RunLocation.open_to_read(out)
    try:
        if watch:
            _await_run(location, every_s)
        _show(out, StatusReader(location), watch=watch, every_s=every_s, as_json=as_json)
    except KeyboardInterrupt:
        # The last view stays on the screen. The run goes on: this only looked.
        if not watch:
            raise


def _await_run(location: RunLocation, every_s: float) -> None:
    """Return once the location holds a run."""
    is_told = False
    while read_header(location) is None:
        if not is_told:
            report("waiting", f"No run has begun at {location.root} yet. Ctrl-C ends.", "yellow")
            is_told = True
        time.sleep(every_s)


def _show(out: str, reader: StatusReader, *, watch: bool, every_s: float, as_json: bool) -> None:
    found = reader.read()
    if as_json:
        _echo_json(found)
        while watch and not found.is_complete:
            time.sleep(every_s)
            found = reader.read()
            _echo_json(found)
    elif watch:
        _watch(out, reader, found, every_s)
    else:
        stdout.print(status_view(out, found))


def _watch(out: str, reader: StatusReader, found: RunStatus, every_s: float) -> None:
    with Live(status_view(out, found), console=stdout, auto_refresh=False) as live:
        while not found.is_complete:
            time.sleep(every_s)
            found = reader.read()
            live.update(status_view(out, found), refresh=True)


def status_view(out: str, found: RunStatus) -> RenderableType:
    """Return the status as tables: counts, speed, and quarantine by reason."""
    parts: list[RenderableType] = [_counts_view(out, found)]
    if found.reasons:
        parts.append(reasons_view(dict(found.reasons)))
    return Group(*parts)


def _counts_view(out: str, found: RunStatus) -> Table:
    table = facts_table(f"{out}: {_headline(found)}")
    table.add_row("source", found.source)
    table.add_row("driver", _driver(found))
    table.add_row("shards", f"{found.shards:,} of {found.num_shards:,}{_retried(found)}")
    table.add_row("images", f"{found.images:,} of {found.num_images:,}")
    table.add_row("", f"{found.annotated:,} annotated, {found.empty:,} empty, {found.quarantined:,} quarantined")
    table.add_row("masks", f"{found.masks:,}")
    table.add_row("candidates", f"{found.samples:,} drawn, {found.expressions:,} distinct")
    table.add_row("kept expressions", kept_text(found.kept, found.kept_lone, num_candidates=found.expressions))
    table.add_row("speed", _speed(found))
    if not found.is_complete:
        table.add_row("left", _left(found))
    table.add_row(
        "seconds per stage", ", ".join(f"{stage} {value:.1f}" for stage, value in found.seconds.items()) or "–"
    )
    if found.bottleneck is not None:
        basis = "the time of all stages" + (", per actor" if found.bottleneck.is_by_actor else "")
        table.add_row("bottleneck", f"{found.bottleneck.stage}: {found.bottleneck.share:.0%} of {basis}")
    table.add_row("output", format_bytes(found.output_bytes))
    if found.repeats:
        table.add_row("repeated", repeats_text(found.repeats))
    table.add_row("byte-reproducible", _outside(found))
    return table


def _headline(found: RunStatus) -> str:
    if found.is_complete:
        return "complete"
    return "running" if found.driver.state == DRIVER_ALIVE else "not complete; run annotate again to continue"


def _driver(found: RunStatus) -> str:
    driver = found.driver
    ago = "" if driver.beaten_s_ago is None else f", last heartbeat {format_seconds(driver.beaten_s_ago)} ago"
    if driver.state == DRIVER_ALIVE:
        return f"{driver.name} is running{ago}"
    if driver.state == DRIVER_SILENT:
        return f"{driver.name} holds the lock but is silent{ago}. It died, or cannot reach the storage"
    return "no driver is running"


def _retried(found: RunStatus) -> str:
    return f", {found.retried:,} of them retried" if found.retried else ""


def _speed(found: RunStatus) -> str:
    rates = found.rates
    if rates.overall is None:
        return "–"
    pauses = f", without {rates.num_pauses} pause(s)" if rates.num_pauses else ""
    overall = f"{rates.overall:.2f} images/s overall ({format_seconds(rates.active_s)} of work{pauses})"
    if rates.now is None:
        return overall
    return f"{rates.now:.2f} images/s now (over the last {format_seconds(rates.window_s)} or less), {overall}"


def _left(found: RunStatus) -> str:
    images = f"{found.num_images - found.images:,} images"
    if found.eta_s is None:
        return images
    once = "" if found.driver.state == DRIVER_ALIVE else " after the run is started again"
    return f"{images}, about {format_seconds(found.eta_s)}{once}"


def _outside(found: RunStatus) -> str:
    if not found.degraded and not found.mixed:
        return "all shards"
    return (
        f"all except {found.degraded:,} degraded and {found.mixed:,} mixed shards. Their bytes may differ in another "
        "run"
    )


def _echo_json(found: RunStatus) -> None:
    fields = dataclasses.asdict(found)
    names = {"num_done": "shards", "num_images_done": "images", "size_bytes": "output_bytes"}
    renamed = {name: fields.pop(field) for name, field in names.items()}
    echo_json({"is_complete": found.is_complete, **renamed, **fields, "eta_s": found.eta_s})
