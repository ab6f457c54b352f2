"""`pseudoris export`: writes a finished run in another format, checks what was written, and may upload it.

Called by `main`. The formats, their options and their help stand in `interchange/exports`. Nothing is written before
all options are accepted.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from pseudoris.cli import options
from pseudoris.cli.console import note, report, stdout
from pseudoris.cli.formats import facts_table, format_bytes
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import bar
from pseudoris.files.named_places import moved_places
from pseudoris.interchange.exports import (
    EXPORTS,
    WRITING,
    ExportOptions,
    ExportRequest,
    HumanAnnotation,
    export_request,
    find_export,
)
from pseudoris.interchange.exports.destination import holds
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.schemas.run_records import HEADER_NAME

if TYPE_CHECKING:
    from pseudoris.interchange.exports.hub_repository import HubRepository

DEFAULTS: Final = ExportOptions()
DEFAULT_MERGED_SPLITS: Final = "val,test,testA,testB"
# `export --help` prints this text below the options: one line for each format.
FORMATS: Final = "\n".join(["Formats:", *(f"  {name:<14}  {export.summary}" for name, export in EXPORTS.items())])
ExportFormat: Any = StrEnum("ExportFormat", {name: name for name in EXPORTS})  # type: ignore[misc]
_MergeHuman = Annotated[
    Path | None,
    option(
        "--merge-human",
        "refer: folder of a human REFER dataset (refs(…).p and instances.json). Adds its val and test splits.",
        metavar="FOLDER",
    ),
]
_MergeSplits = Annotated[str, option("--merge-splits", "Splits to add from --merge-human, separated by commas.")]
_MergeSplitBy = Annotated[
    str | None, option("--merge-split-by", "The refs(…).p of --merge-human to use, if it has several.")
]
_MergeImages = Annotated[
    Path | None,
    option("--merge-images", "Folder with the images of --merge-human. They are copied too.", metavar="FOLDER"),
]


def _option(name: str, **shown: Any) -> Any:
    """Return the option of a field of `ExportOptions`, with the help and the bounds that stand there."""
    declared = next(field.metadata for field in fields(ExportOptions) if field.name == name)
    return typer.Option(f"--{name.replace('_', '-')}", **declared, **shown)


def export(
    out: options.Out,
    destination: Annotated[str, argument("DEST", "Empty folder or url for the export.")],
    export_format: Annotated[ExportFormat, option("--format", "One of the formats below.")] = ExportFormat["parquet"],
    max_tokens: Annotated[int | None, _option("max_tokens")] = None,
    dataset: Annotated[str | None, _option("dataset", show_default="the format's")] = None,
    split: Annotated[str | None, _option("split", show_default="train")] = None,
    split_by: Annotated[str, _option("split_by")] = DEFAULTS.split_by,
    merge_human: _MergeHuman = None,
    merge_splits: _MergeSplits = DEFAULT_MERGED_SPLITS,
    merge_split_by: _MergeSplitBy = None,
    merge_images: _MergeImages = None,
    target_mb: Annotated[int, _option("target_mb")] = int(DEFAULTS.target_mb),
    distinctive_only: Annotated[bool, _option("distinctive_only")] = False,
    masks: Annotated[str | None, _option("masks", show_default="polygon")] = None,
    layout: Annotated[str | None, _option("layout", show_default="masks")] = None,
    license: Annotated[str | None, _option("license")] = None,
    coordinates: Annotated[str | None, _option("coordinates", show_default="norm1000")] = None,
    resize_factor: Annotated[int | None, _option("resize_factor")] = None,
    min_pixels: Annotated[int | None, _option("min_pixels")] = None,
    max_pixels: Annotated[int | None, _option("max_pixels")] = None,
    rewording: Annotated[int, _option("rewording")] = DEFAULTS.rewording,
    any_targets: Annotated[bool, _option("any_targets")] = False,
    source: options.MovedSource = None,
    partial: Annotated[bool, option("--partial", "Export the committed shards of an unfinished run.")] = False,
    overwrite: Annotated[bool, option("--overwrite", "Replace an earlier export in DEST.")] = False,
    push: Annotated[str | None, option("--push", "hf: also upload it as this dataset.", metavar="OWNER/NAME")] = None,
    public: Annotated[bool, option("--public", "Let everyone see what --push creates.")] = False,
    exclude: options.Exclude = None,
    exclude_distance: options.ExcludeDistance = None,
    only: options.Only = None,
    plugins: options.Plugins = None,
) -> None:
    """Write a finished run in another format, and check what was written."""
    options.load_plugins(plugins)
    human = _human(merge_human, merge_split_by, merge_splits, merge_images)
    chosen = ExportOptions.named(locals())
    flags = {"is_partial": partial, "is_overwriting": overwrite}
    excluded = options.read_exclude(exclude, exclude_distance, only)
    _refuse_swapped(out, destination)
    request = export_request(
        out, destination, export_format, chosen, source=moved_places(source), exclusions=excluded, **flags
    )
    repository = _repository(push, request, export_format, is_public=public)
    if repository is not None and repository.state == "whole" and not overwrite:
        stdout.print(f"{repository.page} already holds this export.", soft_wrap=True)
        return
    # A killed command may have written all, and its answer alone is missing.
    is_whole = not overwrite and holds(request.destination, export_format, request.digest)
    if is_whole:
        stdout.print(f"{destination} already holds this export, whole. To write it anew: --overwrite", soft_wrap=True)
    is_whole = is_whole or _write(request, export_format, destination)
    if repository is not None:
        pushed = repository.upload() if is_whole else f"{repository.page}: nothing is pushed while images are missing"
        stdout.print(pushed, soft_wrap=True)
    if not is_whole:
        raise typer.Exit(1)


def _refuse_swapped(out: str, destination: str) -> None:
    """Refuse an OUT without a run where DEST has one."""
    if (
        "://" not in f"{out}{destination}"
        and not Path(out, HEADER_NAME).exists()
        and Path(destination, HEADER_NAME).exists()
    ):
        raise ConfigError(
            f"DEST {destination!r} is a run, and OUT {out!r} is none: give the run first, `export OUT DEST`"
        )


def _write(request: ExportRequest, export_format: str, destination: str) -> bool:
    """Write the export and print its report; return whether no image was left out for a change of SOURCE."""
    chosen = find_export(export_format)
    with bar(WRITING) as show:
        result = chosen.write(request, lambda done, total, /, stage=WRITING: show(done, total, stage), note)
    table = facts_table(f"{destination}: written and checked")
    images = sum(receipt.counts.images for receipt in request.run.receipts)
    table.add_row("images of the run", f"{images:,} of {request.run.header.num_images:,} planned")
    if quarantined := sum(receipt.counts.quarantined for receipt in request.run.receipts):
        table.add_row("quarantined images", f"{quarantined:,}")
    for name, rows in result.rows.items():
        files = result.files.get(name)
        table.add_row(name, f"{rows:,}" if files is None else f"{rows:,} rows in {files:,} file(s)")
    for name in result.files.keys() - result.rows.keys():
        table.add_row(f"files, {name}", f"{result.files[name]:,}")
    table.add_row("size", format_bytes(result.size_bytes))
    left_out = [f"{num:,} {reason}" for reason, num in result.dropped.items() if num]
    for title, lines in (("left out", left_out), ("checked", result.checked)):
        if lines:
            table.add_row(title, escape("\n".join(lines)))
    stdout.print(table, soft_wrap=True)
    for text in result.notes:
        # Notes are printed below the table, because columns would break their commands and paths.
        stdout.print(f"- {text}", soft_wrap=True, markup=False, highlight=False)
    if num := result.num_unread:
        named = f": {', '.join(result.unread)}{', …' if num > len(result.unread) else ''}" if result.unread else ""
        report(
            "problem",
            f"{num:,} images are not in the export, because they are missing from SOURCE, or changed there{named}. "
            "Restore them, or say by --source where they are, and export again with --overwrite",
            "red",
        )
    return not result.num_unread


def _repository(
    name: str | None, request: ExportRequest, export_format: str, *, is_public: bool
) -> HubRepository | None:
    """Return the dataset that is pushed to, looked at before anything is written."""
    if name is None:
        if is_public:
            raise ConfigError("--public needs --push OWNER/NAME.")
        return None
    if export_format != "hf":
        raise ConfigError(f"--push needs --format hf. {export_format} is not a format that the Hub shows.")
    require_extra("remote", "--push")
    from pseudoris.interchange.exports.hub_repository import HubRepository

    return HubRepository.open(name, request, is_public=is_public)


def _human(folder: Path | None, split_by: str | None, splits: str, images: Path | None) -> HumanAnnotation | None:
    if folder is None:
        if split_by is not None or images is not None or splits != DEFAULT_MERGED_SPLITS:
            raise ConfigError("--merge-splits, --merge-split-by and --merge-images need --merge-human FOLDER")
        return None
    found = sorted(folder.glob("refs(*).p"))
    if split_by is not None:
        found = [folder / f"refs({split_by}).p"]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"--merge-human {folder} must have one refs(…).p. Found {names}. Choose one with --merge-split-by."
        )
    chosen = tuple(filter(None, (name.strip() for name in splits.split(","))))
    if not chosen:
        raise ConfigError(f"--merge-splits {splits!r} names no split. Choose from train,{DEFAULT_MERGED_SPLITS}.")
    return HumanAnnotation(str(found[0]), str(folder / "instances.json"), chosen, str(images) if images else None)
