"""`pseudoris status`, `verify` and `gc`: shows how far a run is, proves that it is whole, deletes what failed.

Called by `main`. All three use the files of OUT alone, while a run works or after it. They need no model, and Ray only
for `verify --address`.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from pseudoris.cli import console, formats, options
from pseudoris.cli.options import option
from pseudoris.cli.progress import bar
from pseudoris.cli.summaries import counts_text, reasons_views, totals_rows
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.schemas.config import PlacementConfig
from pseudoris.store.checks.verification import CheckShards, VerifyReport, check_shards, verify_run
from pseudoris.store.reports.run_status import DRIVER_ALIVE, DRIVER_SILENT, RunStatus, StatusReader
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import read_header, require_header
from pseudoris.store.tables.open_run import OpenRun

MAX_SHOWN = 50
MAX_RANGES = 8

_DIGEST = re.compile("[0-9a-f]{64}")


def status(
    out: options.Out,
    watch: Annotated[bool, option("--watch", "Refresh until the run is complete. Waits for it to begin.")] = False,
    every_s: Annotated[float, option("--every", "Seconds between two refreshes.", min=0.5)] = 5.0,
    as_json: Annotated[bool, option("--json", "Print one JSON object; with --watch one per line.")] = False,
    names_quarantined: Annotated[
        bool, option("--quarantined", "List only the quarantined images: key, reason and message, with tabs between.")
    ] = False,
) -> None:
    """Show a run's progress from its files. The run may be stopped. No table is checked."""
    location = RunLocation.open_to_read(out)
    if names_quarantined:
        for row in OpenRun.at(location).quarantined():
            console.echo("\t".join((row.key, row.reason, row.message)))
        return
    try:
        states = _states(location, every_s if watch else None)
        if as_json:
            names = {"num_done": "shards", "num_images_done": "images", "size_bytes": "output_bytes"}
            for found in states:
                fields = dataclasses.asdict(found) | {"source": without_secrets(found.source)}
                renamed = {name: fields.pop(field) for name, field in names.items()}
                console.echo_json({"is_complete": found.is_complete, **renamed, **fields, "eta_s": found.eta_s})
            return
        if not watch:
            console.stdout.print(status_view(out, next(states)))
            return
        # The empty text at the end adds the last line feed, which Rich omits without a terminal.
        with Live(console=console.stdout, auto_refresh=False) as live:
            for found in states:
                live.update(Group(status_view(out, found), ""), refresh=True)
    except KeyboardInterrupt:
        # Ctrl-C ends the watching, not the run. The last view stays on the screen.
        if not watch:
            raise


def _states(location: RunLocation, every_s: float | None) -> Iterator[RunStatus]:
    """Yield the status once; with `every_s` again and again, from the beginning of the run until it is complete."""
    if every_s is not None and read_header(location) is None:
        console.report("waiting", f"No run has begun at {location.root} yet. Ctrl-C ends.", "yellow")
        while read_header(location) is None:
            time.sleep(every_s)
    reader = StatusReader(location)
    yield (found := reader.read())
    while every_s is not None and not found.is_complete:
        time.sleep(every_s)
        yield (found := reader.read())


def status_view(out: str, found: RunStatus) -> RenderableType:
    """Return the status as tables: counts, speed, and quarantine by reason."""
    stopped = "running" if found.driver.state == DRIVER_ALIVE else "not complete; run annotate again to continue"
    table = formats.facts_table(f"{out}: {'complete' if found.is_complete else stopped}")
    table.add_row("source", found.source)
    table.add_row("driver", _driver(found))
    retried = f", {found.retried:,} of them retried" if found.retried else ""
    table.add_row("shards", f"{found.shards:,} of {found.num_shards:,}{retried}")
    table.add_row("speed", _speed(found))
    if not found.is_complete:
        once = "" if found.driver.state == DRIVER_ALIVE else " after the run is started again"
        about = "" if found.eta_s is None else f", about {formats.format_seconds(found.eta_s)}{once}"
        table.add_row("left", f"{found.num_images - found.images:,} images{about}")
    if found.bottleneck is not None:
        basis = "the time of all stages" + (", per actor" if found.bottleneck.is_by_actor else "")
        table.add_row("bottleneck", f"{found.bottleneck.stage}: {found.bottleneck.share:.0%} of {basis}")
    for row in totals_rows(found, found.num_images):
        table.add_row(*row)
    if not (found.degraded or found.mixed):
        table.add_row("byte-reproducible", "all shards")
    return Group(table, *reasons_views(found))


def _driver(found: RunStatus) -> str:
    driver = found.driver
    ago = "" if driver.beaten_s_ago is None else f", last heartbeat {formats.format_seconds(driver.beaten_s_ago)} ago"
    if driver.state == DRIVER_ALIVE:
        return f"{driver.name} is running{ago}"
    if driver.state == DRIVER_SILENT:
        return f"the lock is held{ago}, but {driver.death}"
    return "no driver is running" if driver.death is None else f"no driver is running: {driver.death}"


def _speed(found: RunStatus) -> str:
    rates = found.rates
    if rates.overall is None:
        return "–"
    pauses = f", without {rates.num_pauses} pause(s)" if rates.num_pauses else ""
    overall = f"{rates.text} ({formats.format_seconds(rates.active_s)} of work{pauses})"
    if rates.now is None:
        return overall
    return f"{rates.now:.2f} images/s now (over the last {formats.format_seconds(rates.window_s)} or less), {overall}"


def verify(
    out: options.Out,
    quick: Annotated[bool, option("--quick", "Check sizes, rows and ids only; no digests, no masks.")] = False,
    sample: Annotated[int | None, option("Check N committed shards, spread evenly; all by default.", min=1)] = None,
    address: Annotated[
        str | None,
        option(
            "--address",
            "Ray cluster that does the checks: auto, local, or HOST:PORT. By default, this process does them.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        option("--root", "The root digest that the run must have, as verify printed it before.", metavar="DIGEST"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Prove that every planned image is accounted for once and no file is damaged.

    Every file is checked against the digests that lead from the header to it. The root digest is one sha256 over all
    of them: keep it, and compare it later. Exit code 1 if there is a problem.
    """
    location = RunLocation.open_to_read(out)
    if root is not None and not _DIGEST.fullmatch(root):
        raise ConfigError(f"--root {root!r} is not a root digest: give the 64 hex digits that `verify` printed")
    check: CheckShards = check_shards
    with ExitStack() as stack:
        if address is not None:
            # Ray is imported only for `--address`, because the import takes seconds.
            from pseudoris.pipeline.cluster import connected
            from pseudoris.pipeline.fan_out import checking_on_cluster

            stack.enter_context(connected(address))
            check = checking_on_cluster(PlacementConfig().read)
        show = stack.enter_context(bar("verifying shards"))
        found = verify_run(location, quick=quick, sample=sample, root=root, progress=show, check=check)
    if as_json:
        console.echo_json({"is_clean": found.is_clean, **dataclasses.asdict(found)})
    else:
        _show_report(out, found)
    if not found.is_clean:
        console.report("off", f"{formats.counted(len(found.problems), 'problem')} in {out}", "red")
        raise typer.Exit(1)


def _show_report(out: str, found: VerifyReport) -> None:
    shards = "any shard" if found.num_checked == found.num_shards else "the checked shards"
    table = formats.facts_table(f"{out}: {f'no problem found in {shards}' if found.is_clean else 'problems found'}")
    table.add_row("images planned", f"{found.num_images:,}")
    table.add_row("accounted for", f"{found.num_accounted:,}")
    table.add_row("", counts_text(found))
    table.add_row("shards checked", f"{found.num_checked:,} of {found.num_shards:,}")
    table.add_row("chain", "digests of header, plan, receipts, manifests, tables")
    for notice in found.notices:
        table.add_row("notice", notice)
    console.stdout.print(table)
    # The digest is printed on one unwrapped line, so that it can be copied.
    console.stdout.print(f"root digest  {found.root or 'unknown, as a receipt cannot be used'}", soft_wrap=True)
    if found.problems:
        more = f", the first {MAX_SHOWN}" if len(found.problems) > MAX_SHOWN else ""
        title = f"{formats.counted(len(found.problems), 'problem')}{more}"
        rows = (("–" if p.shard is None else str(p.shard), p.what, p.detail) for p in found.problems[:MAX_SHOWN])
        console.stdout.print(formats.columns_table(("shard", "what", "detail"), rows, title=title, num_texts=3))
    if found.outside:
        title = "not byte-reproducible: bytes may differ from another run's (not a problem)"
        table = formats.columns_table(("shards", "what", "detail"), title=title, num_texts=3)
        for each in found.outside:
            shown = [str(first) if first == last else f"{first}–{last}" for first, last in each.shards[:MAX_RANGES]]
            more = ", …" if len(each.shards) > MAX_RANGES else ""
            table.add_row(f"{each.num_shards:,}: {', '.join(shown)}{more}", each.what, each.detail)
        console.stdout.print(table)


def gc(
    out: options.Out,
    dry_run: Annotated[bool, option("--dry-run", "List what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete files of failed or replaced attempts. Every run does this at its end."""
    location = RunLocation.open(out)
    # A folder without a run is refused, because gc would find nothing to delete there, and report success.
    require_header(location)
    report = run_gc(location, is_dry=dry_run)
    if dry_run:
        for path in report.deleted:
            console.echo(location.uri(path))
    what = "would be deleted (dry run)" if dry_run else "deleted"
    table = formats.facts_table(f"{out}: {len(report.deleted):,} files {what}")
    table.add_row("lost", f"{len(report.lost):,} parts of shards that another process committed first")
    table.add_row("superseded", f"{len(report.superseded):,} parts that a retry replaced")
    table.add_row("abandoned", f"{len(report.abandoned):,} unfinished files of killed processes")
    if report.num_uploads:
        table.add_row("uploads", f"{report.num_uploads:,} unfinished uploads of killed processes")
    table.add_row("freed", formats.format_bytes(report.freed_bytes))
    console.stdout.print(table)
