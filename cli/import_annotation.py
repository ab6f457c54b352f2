"""`pseudoris import`: turns a human annotation into a run, without any model. Called by `main`.

`interchange/imports` reads the annotation and writes the run. An option that the chosen format does not use is refused.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from pseudoris.cli import options
from pseudoris.cli.console import note, stdout
from pseudoris.cli.formats import command, path_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import write_with_bar
from pseudoris.cli.summaries import written_view
from pseudoris.files.location import RunLocation
from pseudoris.interchange import ImportFormat, Orientation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.config_layers import IMPORT_PRESET, load_config

if TYPE_CHECKING:
    from pseudoris.interchange.imports import ImportRequest

# Shards have the default sizes, not the small ones of the preset, because no model runs here.
_SHARD_SIZES: Final = [f"shards.{name}={getattr(ShardsConfig(), name)}" for name in ("max_images", "max_bytes")]
_DATASETS: Final = ("refer", "grefcoco", "coco", "phrasecut", "reasonseg")
# Maps an option to the formats that take it. All formats take the options that are not listed.
_FORMATS_OF: Final = {
    "split": ("refer", "grefcoco", "phrasecut", "reasonseg"),
    "split_by": ("refer", "grefcoco"),
    "captions": ("coco",),
}
Annotation = Annotated[
    str,
    argument(
        "ANNOTATION",
        "Path or url of a COCO JSON file, of a REFER dataset's folder or its refs(…).p, of gRefCOCO's folder or its "
        "grefs(…).json, of PhraseCut's folder or its refer_….json, of ReasonSeg's folder, or of Label Studio's export "
        "as JSON.",
    ),
]
Images = Annotated[
    str,
    argument(
        "IMAGES",
        "Folder or url of the images. File names in ANNOTATION are relative to it. label-studio: the run that its "
        "tasks came from.",
    ),
]
Captions = Annotated[
    str | None, option("--captions", "coco: JSON of captions with instance_id, as `pseudoris export` writes it.")
]
OrientationOption = Annotated[
    Orientation, option("--orientation", "Whether masks fit the image as seen, or as stored in its file.")
]
Assignments = Annotated[
    list[str] | None, option("--set", "Set one key, e.g. shards.max_bytes=268435456. Can be repeated.")
]
AllowMixed = Annotated[
    bool, option("--allow-mixed", "Continue with other package versions than the import began with.")
]
_Format = Annotated[
    ImportFormat | None,
    option("--format", "Format of ANNOTATION. Default: from its name (grefs(…).json is grefcoco, other .json coco)."),
]
_Split = Annotated[
    list[str] | None,
    option("--split", "all but coco: split to import; can be repeated, and training takes train.  [default: train]"),
]
_SplitBy = Annotated[str | None, option("--split-by", "refer, grefcoco: which refs(…) to read: unc, google or umd.")]


def import_annotation(
    annotation: Annotation,
    images: Images,
    out: options.ConfiguredOut,
    annotation_format: _Format = None,
    split: _Split = None,
    split_by: _SplitBy = None,
    captions: Captions = None,
    prefix: Annotated[str, option("--prefix", "Subfolder of IMAGES that the file names are relative to.")] = "",
    orientation: OrientationOption = "upright",
    skip_bad_masks: Annotated[
        bool, option("--skip-bad-masks", "Leave out a mask that does not fit its image, and keep the image.")
    ] = False,
    embed_images: options.EmbedImages = False,
    shard_size: options.ShardSize = None,
    assignments: Assignments = None,
    workers: Annotated[int | None, option("Number of shards at once; by default one per CPU.", min=1)] = None,
    allow_mixed: AllowMixed = False,
    repair: options.Repair = False,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
) -> None:
    """Import human annotation (REFER, COCO and others) as a run with the same tables.

    The formats are REFER, gRefCOCO, COCO, PhraseCut and ReasonSeg. Its expressions have `source` = human.
    label-studio copies a run with a person's corrections. Of several annotations of a task a ground truth counts, else
    the latest.
    """
    chosen = annotation_format or _format_of(annotation)
    short = {"shards.max_images": shard_size, "shards.embed_images": embed_images}
    short |= {"placement.repair": repair, "placement.allow_mixed": allow_mixed}
    config = load_config("tiny", None, [*_SHARD_SIZES, *options.words(assignments, short)])
    _check_options(chosen, split=split, split_by=split_by, captions=captions)
    _check_options(chosen, prefix=prefix, orientation=orientation != "upright", exclude=exclude)
    _check_options(chosen, skip_bad_masks=skip_bad_masks)
    _check_options(chosen, embed_images=embed_images, shard_size=shard_size)
    for each in assignments or ():
        # A correction takes all other settings from the corrected run.
        if chosen == "label-studio" and not each.strip().startswith(("source.endpoint_url", "placement.")):
            raise ConfigError(f"--set {each}: --format {chosen} takes only source.endpoint_url and placement.… there.")
    from pseudoris.interchange import imports

    request = imports.ImportRequest(
        annotation,
        images,
        config.model_copy(update={"preset": IMPORT_PRESET}),
        chosen,
        splits=tuple(split or ()),
        split_by=split_by,
        captions=captions,
        prefix=prefix,
        orientation=orientation,
        skips_bad_masks=skip_bad_masks,
        num_workers=workers or len(os.sched_getaffinity(0)),
        exclusions=options.read_exclude(exclude, exclude_distance),
    )
    _write(request, out)


def _write(request: ImportRequest, out: str) -> None:
    from pseudoris.interchange import imports

    config, is_corrected = request.config, request.format == "label-studio"
    location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
    work = partial(imports.correct_run if is_corrected else imports.import_annotation, request, location)
    during = "copying images" if is_corrected else "importing images"
    summary = write_with_bar(location, work, before="reading the annotation", during=during)
    left_out = [f"{count:,} {what}" for what, count in summary.left_out.items()]
    totals = summary.totals
    kept = "all kept" if totals.kept == totals.expressions else f"{totals.kept:,} kept"
    tasks = ((f"tasks {what}", f"{count:,}") for what, count in summary.num_tasks.items())
    texts = [("expressions", f"{totals.expressions:,}, {kept}"), *tasks]
    if not is_corrected and (held := summary.header.splits):
        texts.append(("splits", ", ".join(f"{name or 'no split'} {num:,}" for name, num in held.images.items())))
    title = "corrected" if is_corrected else "imported"
    stdout.print(written_view(location, summary, title, texts=texts, left_out=left_out), soft_wrap=True)
    damaged = sum(totals.reasons.get(reason, 0) for reason in ("annotation_damaged", "annotation_mismatch"))
    if damaged and not is_corrected and not request.skips_bad_masks:
        note(f"{damaged:,} images are left out for a bad mask. In a new OUT, --skip-bad-masks keeps their others")
    if is_corrected:
        stdout.print(
            path_lines("next", {"audit": command("audit", "add", "AUDIT", request.annotation)}), soft_wrap=True
        )


def _format_of(annotation: str) -> ImportFormat:
    name = annotation.rpartition("/")[2].lower()
    if name.startswith("grefs(") and name.endswith(".json"):
        return "grefcoco"
    return "coco" if name.endswith(".json") else "refer"


def _check_options(chosen: ImportFormat, **given: object) -> None:
    """Refuse what belongs to another format; a run that is corrected has decided all of it."""
    for name, value in given.items():
        formats = _FORMATS_OF.get(name, _DATASETS)
        if value and chosen not in formats:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} cannot go with --format {chosen}, only with {', '.join(formats)}.")
