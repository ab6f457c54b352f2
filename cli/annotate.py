"""`pseudoris annotate`: images in, Parquet tables out; the same command again continues."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options
from cli.console import report, stdout
from cli.progress import plan_view, run_progress, summary_view
from schemas.config import RunConfig
from schemas.config_loading import load_config

INTERRUPTED = 130
INCOMPLETE = 3


def annotate(
    source: options.Source,
    out: options.Out,
    preset: options.Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Images a shard, short for --set shards.max_images=…; a run keeps the one it began with.",
            show_default=False,
        ),
    ] = None,
    address: options.Address = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Plan the first N images only.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Annotate every image of SOURCE with masks and distinctive expressions, into tables under OUT."""
    config = resolve(preset, config_file, assignments, shard_size=shard_size, address=address)
    if dry_run:
        from pipeline.preview import dry_run as preview

        stdout.print(plan_view(preview(source, out, config, limit=limit)))
        return
    raise typer.Exit(run(source, out, config, limit=limit))


def resolve(
    preset: str,
    config_file: options.ConfigFile,
    assignments: options.Assignments,
    *,
    shard_size: int | None,
    address: str | None,
) -> RunConfig:
    """Return the configuration with the two short options laid over everything else."""
    words = list(assignments or ())
    words += [f"shards.max_images={shard_size}"] if shard_size is not None else []
    words += [f"placement.address={address}"] if address is not None else []
    return load_config(preset, config_file, words)


def run(source: str, out: str, config: RunConfig, *, limit: int | None = None) -> int:
    """Run to the end or to an interrupt, with a bar and a summary; return the exit code.

    Raises:
        PseudorisError: What the user can mend, or what another try may cure.
    """
    try:
        # Ray and torch take seconds to import: `--help` and a mistyped option do not wait for them.
        from pipeline.running import annotate as run_pipeline

        with run_progress() as on_event:
            summary = run_pipeline(source, out, config, limit=limit, on_event=on_event)
    except KeyboardInterrupt:
        # Before the first shard or after the last; in between the run ends cleanly and returns its summary.
        report("stopped", f"nothing that is committed in {out} is lost", "yellow")
        report("to resume", "run the same command again", "yellow")
        return INTERRUPTED
    stdout.print(summary_view(summary), soft_wrap=True)
    if summary.interrupted:
        report("stopped", f"{summary.totals.shards} of {summary.num_planned_shards} shards are committed.", "yellow")
        report("to resume", "run the same command again", "yellow")
        return INTERRUPTED
    return 0 if summary.is_complete else INCOMPLETE
