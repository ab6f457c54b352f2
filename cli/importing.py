"""`pseudoris import`: a human's annotation as a run, beside which or in which no model has worked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli import options
from cli.annotate import INTERRUPTED
from cli.console import facts_table, format_bytes, path_lines, report, stdout
from cli.progress import reasons_view
from pipeline.summary import table_globs
from schemas.config import RunConfig, ShardsConfig
from schemas.config_loading import load_config
from schemas.errors import ConfigError
from store.location import RunLocation

if TYPE_CHECKING:
    from training.imports import ImportRequest, ImportSummary
    from training.runs.writing import OnProgress

# A label in the header; no setting of a model is read.
_PRESET = "import"
_JSON = ".json"


class Format(StrEnum):
    """What the annotation is."""

    REFER = "refer"
    COCO = "coco"


class Orientation(StrEnum):
    """What its masks refer to."""

    UPRIGHT = "upright"
    STORED = "stored"


def import_annotation(
    annotation: Annotated[
        str,
        typer.Argument(
            metavar="ANNOTATION",
            help="COCO JSON file, or folder of a REFER dataset, or its refs(…).p; a path or url.",
            show_default=False,
        ),
    ],
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="Folder or url that its file names are relative to.", show_default=False),
    ],
    out: options.Out,
    annotation_format: Annotated[
        Format | None,
        typer.Option("--format", help="Told by the name where not given: .json is coco.", show_default=False),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="refer: which references; may be repeated.  [default: train]", show_default=False),
    ] = None,
    split_by: Annotated[
        str | None, typer.Option("--split-by", help="refer: unc, google or umd, of refs(…).p.", show_default=False)
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option("--captions", help="coco: captions by instance_id, as export writes them.", show_default=False),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Folder below IMAGES in which the file names start.", show_default=False)
    ] = "",
    orientation: Annotated[
        Orientation, typer.Option("--orientation", help="Masks are of the image as seen, or as it lies in its file.")
    ] = Orientation.UPRIGHT,
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="Write the images into the tables, as shards.embed_images=true.")
    ] = False,
    shard_size: Annotated[
        int | None, typer.Option(help="Images a shard, as --set shards.max_images=….", show_default=False)
    ] = None,
    assignments: options.Assignments = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Shards at a time; one a CPU by default.", show_default=False)
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Go on with other package versions than the import began with.")
    ] = False,
) -> None:
    """Import a human's annotation (REFER, COCO) as a run: the same tables, with source = human."""
    chosen = _format(annotation, annotation_format)
    config = _config(assignments, shard_size=shard_size, embed_images=embed_images, allow_mixed=allow_mixed)
    if chosen == Format.COCO and (split or split_by):
        raise ConfigError("--split and --split-by are for --format refer: of COCO JSON each file is a split of its own")
    if chosen == Format.REFER and captions:
        raise ConfigError("--captions is for --format coco: a REFER dataset has its sentences in refs(…).p")
    from training.imports import ImportRequest
    from training.imports.request import DEFAULT_SPLITS

    request = ImportRequest(
        annotation,
        images,
        config,
        "coco" if chosen == Format.COCO else "refer",
        splits=tuple(split or DEFAULT_SPLITS),
        split_by=split_by,
        captions=captions,
        prefix=prefix,
        orientation="stored" if orientation == Orientation.STORED else "upright",
        num_workers=workers or len(os.sched_getaffinity(0)),
    )
    location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
    raise typer.Exit(_run(request, location))


def _format(annotation: str, given: Format | None) -> Format:
    if given is not None:
        return given
    return Format.COCO if annotation.lower().endswith(_JSON) else Format.REFER


def _config(
    assignments: options.Assignments, *, shard_size: int | None, embed_images: bool, allow_mixed: bool
) -> RunConfig:
    """Return a configuration with the short options laid over `--set`; its models belong to nobody."""
    # The preset's shards are small for its models' sake; here a shard takes seconds.
    bounds = ShardsConfig()
    words = [f"shards.max_images={bounds.max_images}", f"shards.max_bytes={bounds.max_bytes}", *(assignments or ())]
    words += [f"shards.max_images={shard_size}"] if shard_size is not None else []
    words += ["shards.embed_images=true"] if embed_images else []
    words += ["placement.allow_mixed=true"] if allow_mixed else []
    return load_config("tiny", None, words).model_copy(update={"preset": _PRESET})


def _run(request: ImportRequest, location: RunLocation) -> int:
    from training.imports import import_annotation as import_into

    try:
        with _progress() as on_progress:
            summary = import_into(
                request, location, on_progress=on_progress, on_wait=lambda text: report("note", text, "yellow")
            )
    except KeyboardInterrupt:
        report("stopped", f"nothing that is committed in {location.root} is lost", "yellow")
        report("to resume", "run the same command again", "yellow")
        return INTERRUPTED
    stdout.print(_view(summary, location), soft_wrap=True)
    return 0


@contextmanager
def _progress() -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=stdout, transient=True) as progress:
        task = progress.add_task("reading the annotation", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total, description="importing images")


def _view(summary: ImportSummary, location: RunLocation) -> RenderableType:
    totals = summary.totals
    table = facts_table(f"{location.root}: imported")
    table.add_row(
        "images",
        f"{totals.images:,} of {summary.header.num_images:,}: {totals.annotated:,} annotated, {totals.empty:,} empty, "
        f"{totals.quarantined:,} quarantined",
    )
    table.add_row("masks", f"{totals.masks:,}")
    table.add_row("expressions", f"{totals.expressions:,}, all of them kept")
    table.add_row("output", format_bytes(totals.output_bytes))
    if summary.num_shards_before:
        table.add_row("before", f"{summary.num_shards_before:,} of {summary.header.num_shards:,} shards were committed")
    if summary.num_without_pixels:
        table.add_row("left out", f"{summary.num_without_pixels:,} masks without a pixel, in this call")
    for what, count in summary.left_out.items():
        table.add_row("left out", f"{count:,} {what}")
    parts: list[RenderableType] = [table]
    if totals.reasons:
        parts += ["", reasons_view(dict(totals.reasons))]
    return Group(*parts, "", path_lines("tables", table_globs(location.uri)))
