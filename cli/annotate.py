"""`pseudoris annotate` and `estimate`: annotates images, or a sample of them to predict speed and size.

Called by `main`, `demo` and `weights`. The exit code says how a run ended: a script knows by it whether to repeat it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType

from pseudoris.cli import console, formats, options
from pseudoris.cli.options import option
from pseudoris.cli.progress import INTERRUPTED, bar, resumable, run_progress
from pseudoris.cli.summaries import plan_view, summary_view
from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import RunOptions, asked_preset
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.schemas.config import RunConfig, plan_warning
from pseudoris.schemas.config_layers import composes_for_any_captioner, load_config
from pseudoris.store.runs.pending_work import Planned, RunEvent, parse_reasons

if TYPE_CHECKING:
    from pseudoris.pipeline.sample_estimate import RunEstimate
    from pseudoris.schemas.estimate import Estimate

INCOMPLETE = 3
FRUITLESS = 1
_NUM_QUARANTINED = 3

AllowMixed = Annotated[bool, option("--allow-mixed", "Continue with another kind of device or other package versions.")]
AllowDegraded = Annotated[
    bool, option("--allow-degraded", "Use smaller batches for a shard that has run out of memory twice.")
]
MasksFrom = Annotated[
    str | None,
    option("--masks-from", "A finished run of SOURCE: take its masks, compute captions anew.", metavar="RUN"),
]
RetryReasons = Annotated[str | None, option("With --retry-failed: only these reasons, e.g. missing,decoder_timeout.")]
Limit = Annotated[
    int | None, option("Plan only the first N images; with --extend, the first N that the run lacks.", min=1, max=10**9)
]
MovedFrom = Annotated[
    str | None,
    option("--moved-from", "What SOURCE was before the images moved; name both places from then on.", metavar="OLD"),
]
# With fewer sampled images no interval is shown, because one unusual image would decide it.
_LEAST_SAMPLE = 16


def annotate(
    source: options.Source,
    out: options.ConfiguredOut,
    preset: options.Preset = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    on_cpus: options.OnCpus = False,
    shard_size: options.ShardSize = None,
    address: options.Address = None,
    limit: Limit = None,
    moved_from: MovedFrom = None,
    extend: Annotated[bool, option("--extend", "List SOURCE again and add its new images to the run.")] = False,
    retry_failed: Annotated[bool, option("--retry-failed", "Compute only the quarantined images again.")] = False,
    retry_reasons: RetryReasons = None,
    allow_mixed: AllowMixed = False,
    allow_degraded: AllowDegraded = False,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
    only: options.Only = None,
    accept_domain: options.AcceptDomain = False,
    masks_from: MasksFrom = None,
    repair: options.Repair = False,
    dry_run: Annotated[bool, option("--dry-run", "Print the plan and stop.")] = False,
) -> None:
    """Annotate the images of SOURCE into OUT. Run the same command again to continue.

    OUT gets four Parquet tables: images, masks, expressions and failures.
    """
    short = {
        "shards.max_images": shard_size,
        "placement.address": address,
        "placement.allow_mixed": allow_mixed,
        "placement.allow_degraded": allow_degraded,
        "placement.masks_from": masks_from,
        "placement.repair": repair,
    }
    options.refuse_second_match(source, out)
    words = options.words(assignments, short, on_cpus=on_cpus)
    parents = [word for word in words if word.startswith(("masks.", "images.", "shards."))]
    if masks_from is not None and parents:
        raise ConfigError(f"{parents[0]}: with --masks-from it is as in that run. Leave it out")
    reasons = parse_reasons(None if retry_reasons is None else retry_reasons.split(","))
    exclusions = options.read_exclude(exclude, exclude_distance, only)
    run_options = RunOptions(limit, is_extension=extend, is_retry=retry_failed, reasons=reasons, exclusions=exclusions)
    run_options = dataclasses.replace(run_options, moved_from=moved_from)
    asked = asked_preset(preset, config_file, words, out=out, masks_from=masks_from, modes=run_options.modes)
    config = load_config(asked, config_file, words)
    if not dry_run:
        # A repair is of this command alone, and none extends a run.
        lasting = [word for word in words if not word.startswith("placement.repair=")]
        rules = {"--exclude": exclude, "--only": only, "--set": lasting}
        named = {"--preset": preset, "--config": config_file, "--exclude-distance": exclude_distance}
        given = [(name, str(each)) for name, each in named.items() if each is not None]
        given += [(name, each) for name, all_ in rules.items() for each in all_ or ()]
        raise typer.Exit(run(source, out, config, run_options=run_options, given=list(chain.from_iterable(given))))
    from pseudoris.pipeline.annotation import dry_run as preview

    _warn(config)
    console.stdout.print(plan_view(preview(source, out, config, options=run_options)))


def run(
    source: str, out: str, config: RunConfig, *, run_options: RunOptions | None = None, given: Sequence[str] = ()
) -> int:
    """Run to the end or to an interrupt, with a bar and a summary; return the exit code.

    `given` are the words of the command that say what the run is, for the next one.
    """
    from pseudoris.pipeline.annotation import annotate as run_pipeline

    _warn(config)
    # An interrupt while shards are processed ends the run cleanly. At other times `resumable` gets KeyboardInterrupt.
    with resumable(out) as planned, run_progress() as show:

        def tell(event: RunEvent) -> None:
            if isinstance(event, Planned):
                planned.set()
            show(event)

        summary = run_pipeline(source, out, config, options=run_options, on_event=tell)
    if summary.interrupted and not summary.totals.shards:
        console.report_stopped("interrupted before the first shard was committed")
        return INTERRUPTED
    console.stdout.print(summary_view(summary), soft_wrap=True)
    if summary.totals.quarantined:
        from pseudoris.store.tables.open_run import OpenRun

        location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
        first = islice(OpenRun.at(location).quarantined(), _NUM_QUARANTINED)
        lines = {**{each.key: each.reason for each in first}, "all": formats.command("status", out, "--quarantined")}
        console.stdout.print("", formats.path_lines("quarantined images", lines), sep="\n", soft_wrap=True)
    if summary.interrupted:
        console.report_stopped(f"{summary.totals.shards} of {summary.num_planned_shards} shards are committed.")
        return INTERRUPTED
    if not summary.is_complete:
        left = summary.num_planned_shards - summary.totals.shards
        # This can only be a retry, because `--retry-failed` leaves out the shards that were never committed.
        console.report(
            "incomplete", f"{left:,} shards are not committed. Run without --retry-failed to continue.", "yellow"
        )
        return INCOMPLETE
    if summary.totals.is_fruitless:
        console.report(
            "problem",
            "no image could be annotated. The reasons are above: check SOURCE, plug-ins (images.decoder_plugins), and "
            f"files that settings name. To begin anew with other settings or another SOURCE, delete {out} first",
            "red",
        )
        return FRUITLESS
    if not summary.totals.masks and config.masks.prior.kind == "table":
        console.note("no image has a mask: a file of masks.prior must name images by their keys")
    is_for_any = composes_for_any_captioner(config)
    # With the masks of a run, nothing can be added.
    moved_from = None if run_options is None or config.placement.masks_from else run_options.moved_from
    moved = () if moved_from is None else (without_secrets(source), without_secrets(moved_from), *given)
    console.stdout.print(formats.next_lines(out, composes_for_any_captioner=is_for_any, moved=moved), soft_wrap=True)
    return 0


def _warn(config: RunConfig) -> None:
    """Say what is known against the preset while a stop costs nothing: the summary comes hours later."""
    if text := plan_warning(config.preset):
        console.note(text)


def estimate(
    source: options.Source,
    preset: options.Preset = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    on_cpus: options.OnCpus = False,
    sample: Annotated[int, option("Number of images, drawn uniformly.", min=2)] = 200,
    gpus: Annotated[
        float | None, option("Number of GPUs that the run will have. Default: those of the cluster.", min=0.01)
    ] = None,
    scratch: Annotated[str | None, option("Folder or url for the sample's output; all nodes must reach it.")] = None,
    address: options.Address = None,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
    only: options.Only = None,
    accept_domain: options.AcceptDomain = False,
    as_json: options.AsJson = False,
) -> None:
    """Annotate a sample of SOURCE to predict speed, GPU hours and output size.

    It also predicts the share of images that would be quarantined.
    """
    words = options.words(assignments, {"placement.address": address}, on_cpus=on_cpus)
    config = load_config(asked_preset(preset, config_file, words), config_file, words)
    from pseudoris.pipeline.sample_estimate import estimate as run_sample

    _warn(config)
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
        console.echo_json({**dataclasses.asdict(found), "source": without_secrets(found.source)})
    else:
        console.stdout.print(estimate_view(found))


def estimate_view(found: RunEstimate) -> RenderableType:
    """Return the estimate as a table, each figure with its interval."""
    has_intervals = found.num_sampled >= _LEAST_SAMPLE

    def span(found: Estimate, write: Callable[[float], str]) -> str:
        value, low, high = (write(each) for each in (found.value, found.low, found.high))
        return f"{value} ({low} to {high})" if has_intervals else value

    table = formats.facts_table(f"{found.source}: estimate")
    table.add_row("images", f"{found.num_images:,} in {formats.counted(found.num_shards, 'shard')}")
    if found.num_excluded:
        table.add_row("excluded", f"{found.num_excluded:,} listed images are not counted")
    sampled = f"{formats.counted(found.num_sampled, 'image')} in {formats.counted(found.num_sample_shards, 'shard')}"
    table.add_row("sample", f"{sampled}, on {found.device_kind}")
    table.add_row(
        "speed", f"{span(found.images_per_s, '{:.3g}'.format)} images/s per {found.unit}, once models are loaded"
    )
    table.add_row(
        "models", f"{formats.format_seconds(found.load_s)} per actor to load the models, not included in the speed"
    )
    units = f"{found.num_units:g} {found.unit}{'' if found.num_units == 1 else 's'}"
    table.add_row("hours", f"{span(found.hours, '{:.3g}'.format)} on {units}")
    table.add_row(f"{found.unit} hours", span(found.unit_hours, "{:.3g}".format))
    table.add_row("output", span(found.output_bytes, formats.format_bytes))
    table.add_row("quarantined", span(found.quarantined, "{:.1%}".format))
    if found.too_large:
        table.add_row("too large", found.too_large)
    if found.empty_images:
        table.add_row("empty images", found.empty_images)
    seconds = ", ".join(f"{stage} {value:.3f}" for stage, value in found.stage_seconds.items())
    table.add_row("seconds per image", seconds)
    note = "In brackets: 95 % bootstrap intervals over the sample's shards."
    if not has_intervals:
        note = (
            f"Only {found.num_sampled} images were measured: too few for intervals, which take {_LEAST_SAMPLE}. "
            "Raise --sample, or give a SOURCE with more images."
        )
    return Group(table, note)
