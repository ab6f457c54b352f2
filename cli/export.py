"""`pseudoris export`: a finished run in another form; what is written is read back before it counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli import options
from cli.console import facts_table, format_bytes, stdout
from schemas.errors import ConfigError
from schemas.run import Receipt, RunHeader
from store.header import require_header
from store.location import RunLocation
from store.standing import StandingReceipts
from training.exports import (
    EXPORTS,
    WRITING,
    Export,
    ExportOptions,
    ExportReport,
    ExportRequest,
    HumanAnnotation,
    find_export,
)

DEFAULT_TARGET_MB: Final = 256
DEFAULT_SPLIT_BY: Final = "pseudo"
DEFAULT_MERGED_SPLITS: Final = "val,test,testA,testB"
_MB: Final = 10**6
_FORMATS: Final = "; ".join(f"{name}: {export.summary}" for name, export in EXPORTS.items())


_Destination = Annotated[
    str, typer.Argument(metavar="DEST", help="Empty folder or url that gets the export.", show_default=False)
]
_Format = Annotated[str, typer.Option("--format", help=f"{_FORMATS}.")]
_MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        min=0,
        help="Leave out longer expressions, in CLIP tokens with start and end; 0 keeps all. "
        "By default what the format's trainers cut at.",
        show_default=False,
    ),
]
_Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Name under which the trainer asks for it.", show_default="the format's"),
]
_Split = Annotated[str, typer.Option("--split", help="Split that the run becomes.")]
_SplitBy = Annotated[str, typer.Option("--split-by", help="refer: who split it, as in refs(<split-by>).p.")]
_MergeHuman = Annotated[
    Path | None,
    typer.Option(
        "--merge-human",
        metavar="FOLDER",
        help="refer: folder of a REFER dataset (refs(…).p and instances.json) whose val and test join.",
        show_default=False,
    ),
]
_MergeSplits = Annotated[str, typer.Option("--merge-splits", help="Which splits of it, by commas.")]
_MergeSplitBy = Annotated[
    str | None,
    typer.Option("--merge-split-by", help="Which of its refs(…).p, where it has several.", show_default=False),
]
_MergeImages = Annotated[
    Path | None,
    typer.Option(
        "--merge-images", metavar="FOLDER", help="Where its images lie, to copy them too.", show_default=False
    ),
]
_TargetMb = Annotated[
    int,
    typer.Option(
        "--target-mb",
        min=1,
        max=4_096,
        help="Size of a file: parquet, hf, webdataset; 128 to 512 suits most readers.",
    ),
]
_MovedSource = Annotated[
    str | None,
    typer.Option("--source", help="Where the run's images lie now, if they have moved.", show_default=False),
]
_Partial = Annotated[bool, typer.Option("--partial", help="Export what is committed of an unfinished run.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an export that stands in DEST.")]


def export(
    out: options.Out,
    destination: _Destination,
    export_format: _Format = "parquet",
    max_tokens: _MaxTokens = None,
    dataset: _Dataset = None,
    split: _Split = "train",
    split_by: _SplitBy = DEFAULT_SPLIT_BY,
    merge_human: _MergeHuman = None,
    merge_splits: _MergeSplits = DEFAULT_MERGED_SPLITS,
    merge_split_by: _MergeSplitBy = None,
    merge_images: _MergeImages = None,
    target_mb: _TargetMb = DEFAULT_TARGET_MB,
    source: _MovedSource = None,
    partial: _Partial = False,
    overwrite: _Overwrite = False,
) -> None:
    """Write a finished run in the form that another reader wants, and read it back."""
    chosen = find_export(export_format)
    human = _human(merge_human, merge_split_by, merge_splits, merge_images)
    told = {
        "max_tokens": max_tokens is not None,
        "dataset": dataset is not None,
        "split": split != "train",
        "split_by": split_by != DEFAULT_SPLIT_BY,
        "human": human is not None,
        "target_bytes": target_mb != DEFAULT_TARGET_MB,
    }
    _check_meant(export_format, chosen, told)
    limit = chosen.default_max_tokens if max_tokens is None else max_tokens or None
    run, target = RunLocation.open(out), RunLocation.open(destination)
    header = require_header(run)
    if target.root == run.root or target.root.startswith(f"{run.root}/"):
        raise ConfigError(f"DEST {destination!r} lies in the run: name another place, so that its folders stay exact")
    receipts = StandingReceipts.listed(run)
    _check_complete(header, receipts, is_partial=partial)
    wanted = ExportOptions(limit, dataset, split, split_by, human)
    request = ExportRequest(
        run, header, receipts, target, target_mb * _MB, is_overwriting=overwrite, source=source, options=wanted
    )
    report = _write(chosen, request)
    stdout.print(_view(destination, report, header, receipts), soft_wrap=True)
    for note in report.notes:
        # Below the table, where no column breaks a command or a path in two.
        stdout.print(f"- {note}", soft_wrap=True, markup=False, highlight=False)


def _write(chosen: Export, request: ExportRequest) -> ExportReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stdout, transient=True) as progress:
        task = progress.add_task(WRITING, total=None)

        def show(done: int, total: int, /, stage: str = WRITING) -> None:
            progress.update(task, completed=done, total=total, description=stage)

        return chosen.write(request, show)


def _human(folder: Path | None, split_by: str | None, splits: str, images: Path | None) -> HumanAnnotation | None:
    if folder is None:
        if split_by is not None or images is not None or splits != DEFAULT_MERGED_SPLITS:
            raise ConfigError("--merge-splits, --merge-split-by and --merge-images belong to --merge-human FOLDER")
        return None
    found = sorted(folder.glob("refs(*).p"))
    if split_by is not None:
        found = [folder / f"refs({split_by}).p"]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"--merge-human {folder}: one refs(…).p is wanted, found {names}: name it by --merge-split-by"
        )
    chosen = tuple(filter(None, (name.strip() for name in splits.split(","))))
    if not chosen:
        raise ConfigError(f"--merge-splits {splits!r} names no split: give some of train,{DEFAULT_MERGED_SPLITS}")
    return HumanAnnotation(str(found[0]), str(folder / "instances.json"), chosen, str(images) if images else None)


def _check_meant(name: str, chosen: Export, told: dict[str, bool]) -> None:
    """Refuse an option that the format does not read: silence would look like consent."""
    flags = {"human": "--merge-human", "target_bytes": "--target-mb"}
    for option, is_told in told.items():
        if is_told and option not in chosen.reads:
            flag = flags.get(option, f"--{option.replace('_', '-')}")
            known = ", ".join(each for each, export in EXPORTS.items() if option in export.reads)
            raise ConfigError(f"--format {name} has no use for {flag}: leave it out (it belongs to {known})")


def _check_complete(header: RunHeader, receipts: Sequence[Receipt], *, is_partial: bool) -> None:
    if not receipts:
        raise ConfigError("nothing of the run is committed yet: there is nothing to export")
    if len(receipts) < header.num_shards and not is_partial:
        raise ConfigError(
            f"{len(receipts):,} of {header.num_shards:,} shards are committed: finish the run with the same `annotate` "
            "command, or export what there is with --partial"
        )


def _view(destination: str, report: ExportReport, header: RunHeader, receipts: Sequence[Receipt]) -> Table:
    table = facts_table(f"{destination}: written and read back")
    images = sum(receipt.counts.images for receipt in receipts)
    table.add_row("images of the run", f"{images:,} of {header.num_images:,} planned")
    for name, rows in report.rows.items():
        files = report.files.get(name)
        table.add_row(name, f"{rows:,}" if files is None else f"{rows:,} rows in {files:,} file(s)")
    for name in report.files.keys() - report.rows.keys():
        table.add_row(f"files, {name}", f"{report.files[name]:,}")
    table.add_row("size", format_bytes(report.size_bytes))
    for title, lines in (("left out", _left_out(report)), ("checked", report.checked)):
        if lines:
            table.add_row(title, escape("\n".join(lines)))
    return table


def _left_out(report: ExportReport) -> list[str]:
    return [f"{num:,} {reason}" for reason, num in report.dropped.items() if num]
