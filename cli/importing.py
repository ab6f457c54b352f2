"""`pseudoris import`: a human's annotation as a run, beside which or in which no model has worked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.console import stdout
from cli.written_runs import Wording, write_with_bar, written_view
from schemas.config import RunConfig, ShardsConfig
from schemas.config_loading import load_config
from schemas.errors import ConfigError
from store.location import RunLocation

if TYPE_CHECKING:
    from training.imports import ImportRequest, ImportSummary

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


Annotation = Annotated[
    str,
    typer.Argument(
        metavar="ANNOTATION",
        help="COCO JSON file, or folder of a REFER dataset, or its refs(…).p; a path or url.",
        show_default=False,
    ),
]
Images = Annotated[
    str,
    typer.Argument(metavar="IMAGES", help="Folder or url that its file names are relative to.", show_default=False),
]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Told by the name where not given: .json is coco.", show_default=False),
]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", help="refer: which references; may be repeated.  [default: train]", show_default=False),
]
SplitBy = Annotated[
    str | None, typer.Option("--split-by", help="refer: unc, google or umd, of refs(…).p.", show_default=False)
]
Captions = Annotated[
    str | None,
    typer.Option("--captions", help="coco: captions by instance_id, as export writes them.", show_default=False),
]
Prefix = Annotated[
    str,
    typer.Option("--prefix", help="Folder below IMAGES in which the file names start.", show_default=False),
]
OrientationOption = Annotated[
    Orientation, typer.Option("--orientation", help="Masks are of the image as seen, or as it lies in its file.")
]
EmbedImages = Annotated[
    bool, typer.Option("--embed-images", help="Write the images into the tables, as shards.embed_images=true.")
]
ShardSize = Annotated[
    int | None, typer.Option(help="Images a shard, as --set shards.max_images=….", show_default=False)
]
Workers = Annotated[int | None, typer.Option(min=1, help="Shards at a time; one a CPU by default.", show_default=False)]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Go on with other package versions than the import began with.")
]


def import_annotation(
    annotation: Annotation,
    images: Images,
    out: options.Out,
    annotation_format: FormatOption = None,
    split: Splits = None,
    split_by: SplitBy = None,
    captions: Captions = None,
    prefix: Prefix = "",
    orientation: OrientationOption = Orientation.UPRIGHT,
    embed_images: EmbedImages = False,
    shard_size: ShardSize = None,
    assignments: options.Assignments = None,
    workers: Workers = None,
    allow_mixed: AllowMixed = False,
) -> None:
    """Import a human's annotation (REFER, COCO) as a run: the same tables, with source = human."""
    chosen = _format(annotation, annotation_format)
    config = _config(assignments, shard_size=shard_size, embed_images=embed_images, allow_mixed=allow_mixed)
    _check_options(chosen, is_split=bool(split or split_by), has_captions=bool(captions))
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
    _run(request, RunLocation.open(out, config.source.endpoint_url, config.placement.storage))


def _format(annotation: str, given: Format | None) -> Format:
    if given is not None:
        return given
    return Format.COCO if annotation.lower().endswith(_JSON) else Format.REFER


def _check_options(chosen: Format, *, is_split: bool, has_captions: bool) -> None:
    """Refuse what belongs to the other format."""
    if chosen == Format.COCO and is_split:
        raise ConfigError("--split and --split-by are for --format refer: of COCO JSON each file is a split of its own")
    if chosen == Format.REFER and has_captions:
        raise ConfigError("--captions is for --format coco: a REFER dataset has its sentences in refs(…).p")


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


def _run(request: ImportRequest, location: RunLocation) -> None:
    from training.imports import import_annotation as import_into

    summary = write_with_bar(
        location,
        lambda on_progress, on_wait: import_into(request, location, on_progress=on_progress, on_wait=on_wait),
        before="reading the annotation",
        during="importing images",
    )
    texts = [("expressions", f"{summary.totals.expressions:,}, all of them kept")]
    view = written_view(location, summary, Wording("imported"), texts=texts, left_out=tuple(_left_out(summary)))
    stdout.print(view, soft_wrap=True)


def _left_out(summary: ImportSummary) -> Iterator[str]:
    if summary.num_without_pixels:
        yield f"{summary.num_without_pixels:,} masks without a pixel, in this call"
    for what, count in summary.left_out.items():
        yield f"{count:,} {what}"
