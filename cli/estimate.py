"""`pseudoris estimate`: what the whole would take, from a sample that is really run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType

from pseudoris.cli import options
from pseudoris.cli.annotate import resolve
from pseudoris.cli.console import domain_lines, echo_json, facts_table, format_bytes, format_seconds, stdout
from pseudoris.cli.progress import bar

if TYPE_CHECKING:
    from pseudoris.pipeline.sample_estimate import Estimate, Interval

DEFAULT_SAMPLE = 200


def estimate(
    source: options.Source,
    preset: options.Preset = "tiny",
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    sample: Annotated[int, typer.Option(min=2, help="Number of images, drawn uniformly.")] = DEFAULT_SAMPLE,
    gpus: Annotated[
        float | None,
        typer.Option(min=0.01, help="Number of GPUs that the run will have. Default: those of the cluster."),
    ] = None,
    scratch: Annotated[
        str | None, typer.Option(help="Folder or url for the sample's output; all nodes must reach it.")
    ] = None,
    address: options.Address = None,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
    only: options.Only = None,
    accept_domain: options.AcceptDomain = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Annotate a sample of SOURCE to predict speed, GPU hours and output size.

    It also predicts the share of images that would be quarantined.
    """
    allowed = {"accept_domain": accept_domain}
    config = resolve(preset, config_file, assignments, shard_size=None, address=address, allowed=allowed)
    # Ray and torch take seconds to import: `--help` and a mistyped option do not wait for them.
    from pseudoris.pipeline.sample_estimate import estimate as run_sample

    exclusions = options.read_exclude(exclude, exclude_distance, only)
    with bar("listing") as show:
        found = run_sample(
            source,
            config,
            size=sample,
            num_gpus=gpus,
            scratch=scratch,
            exclusions=exclusions,
            on_progress=show.named("running the sample"),
        )
    if as_json:
        domain = None if found.domain is None else found.domain.model_dump()
        echo_json({**dataclasses.asdict(found), "domain": domain})
    else:
        stdout.print(estimate_view(found))


def estimate_view(found: Estimate) -> RenderableType:
    """Return the estimate as a table, each figure with its interval."""
    table = facts_table(f"{found.source}: estimate")
    table.add_row("images", f"{found.num_images:,} in {found.num_shards:,} shards")
    if found.num_excluded:
        table.add_row("excluded", f"{found.num_excluded:,} listed images are not counted")
    table.add_row(
        "sample", f"{found.num_sampled:,} images in {found.num_sample_shards:,} shards, on {found.device_kind}"
    )
    table.add_row("speed", f"{_span(found.images_per_s, '{:.3g}')} images/s per {found.unit}, once models are loaded")
    table.add_row("models", f"{format_seconds(found.load_s)} per actor to load the models, not included in the speed")
    units = f"{found.num_units:g} {found.unit}{'' if found.num_units == 1 else 's'}"
    table.add_row("hours", f"{_span(found.hours, '{:.3g}')} on {units}")
    table.add_row(f"{found.unit} hours", _span(found.unit_hours, "{:.3g}"))
    low, high = format_bytes(found.output_bytes.low), format_bytes(found.output_bytes.high)
    table.add_row("output", f"{format_bytes(found.output_bytes.value)} ({low} to {high})")
    table.add_row("quarantined", _span(found.quarantined, "{:.1%}"))
    seconds = ", ".join(f"{stage} {value:.3f}" for stage, value in found.stage_seconds.items())
    table.add_row("seconds per image", seconds)
    note = "In brackets: 95 % bootstrap intervals over the sample's shards."
    return Group(*domain_lines(found.domain), table, note)


def _span(interval: Interval, pattern: str) -> str:
    value, low, high = (pattern.format(each) for each in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"
