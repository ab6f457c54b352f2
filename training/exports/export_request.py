"""The formats of `pseudoris export`, and the `ExportRequest` of a user's options.

A new format is a module next to this one, and a line in `EXPORTS`. Invalid combinations of options are rejected before
anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import LatestReceipts
from pseudoris.store.sources.exclusions import Exclusions
from pseudoris.training.exports.coco_export import CocoExport
from pseudoris.training.exports.cris import CrisExport
from pseudoris.training.exports.cris_lmdb import LmdbExport
from pseudoris.training.exports.huggingface import HuggingfaceExport
from pseudoris.training.exports.merged_parquet import ParquetExport
from pseudoris.training.exports.protocol import (
    DEFAULT_SPLIT,
    DEFAULT_SPLIT_BY,
    Export,
    ExportOptions,
    ExportRequest,
    HumanAnnotation,
)
from pseudoris.training.exports.pseudo_ris_csv import PseudoRisCsvExport
from pseudoris.training.exports.refer import ReferExport
from pseudoris.training.exports.sa1b import Sa1bExport
from pseudoris.training.exports.webdataset import WebdatasetExport

EXPORTS: Final[dict[str, Export]] = {
    "parquet": ParquetExport(),
    "refer": ReferExport(),
    "cris": CrisExport(),
    "lmdb": LmdbExport(),
    "coco": CocoExport(),
    "sa1b": Sa1bExport(),
    "webdataset": WebdatasetExport(),
    "hf": HuggingfaceExport(),
    "pseudo-ris-csv": PseudoRisCsvExport(),
}
DEFAULT_TARGET_MB: Final = 256
_MB: Final = 10**6
_FLAGS: Final = {"human": "--merge-human", "target_bytes": "--target-mb"}


def find_export(name: str) -> Export:
    """Return the export of a format."""
    if name not in EXPORTS:
        raise ConfigError(f"There is no export format {name!r}. Give --format {' or '.join(EXPORTS)}.")
    return EXPORTS[name]


def export_request(
    out: str,
    destination: str,
    export_format: str,
    *,
    max_tokens: int | None = None,
    dataset: str | None = None,
    split: str | None = None,
    split_by: str | None = None,
    human: HumanAnnotation | None = None,
    target_mb: int | None = None,
    distinctive_only: bool = False,
    source: str | None = None,
    is_partial: bool = False,
    is_overwriting: bool = False,
    exclusions: Exclusions | None = None,
) -> ExportRequest:
    """Return what `find_export(export_format).write` needs; nothing is written.

    An option that is None has its default; the others are as in `ExportOptions` and `ExportRequest`.

    Args:
        out: Folder or url of the run.
        destination: Empty folder or url that gets the export.
        export_format: A name of `EXPORTS`.
        max_tokens: Longest expression, in CLIP tokens with start and end; 0 keeps all, None is the format's own limit.
        dataset: See `ExportOptions`.
        split: Likewise.
        split_by: Likewise.
        human: Likewise.
        target_mb: Size of a file, where the format has files of a free size.
        distinctive_only: See `ExportOptions`.
        source: Where the run's images are now, if they have moved.
        is_partial: Export the committed shards of an unfinished run.
        is_overwriting: Replace an existing export at the destination.
        exclusions: Images to leave out.
    """
    chosen = find_export(export_format)
    split = DEFAULT_SPLIT if split is None else split
    split_by = DEFAULT_SPLIT_BY if split_by is None else split_by
    target_mb = DEFAULT_TARGET_MB if target_mb is None else target_mb
    given = {
        "max_tokens": max_tokens is not None,
        "dataset": dataset is not None,
        "split": split != DEFAULT_SPLIT,
        "split_by": split_by != DEFAULT_SPLIT_BY,
        "human": human is not None,
        "target_bytes": target_mb != DEFAULT_TARGET_MB,
        "distinctive_only": distinctive_only,
    }
    _check_options(export_format, given)
    limit = chosen.default_max_tokens if max_tokens is None else max_tokens or None
    run, target = RunLocation.open_to_read(out), RunLocation.open(destination)
    header = require_header(run)
    if target.root == run.root or target.root.startswith(f"{run.root}/"):
        raise ConfigError(f"DEST {destination!r} is inside the run. Name a place outside it.")
    receipts = LatestReceipts.listed(run)
    _check_complete(len(receipts), header.num_shards, is_partial=is_partial)
    options = ExportOptions(limit, dataset, split, split_by, human, distinctive_only)
    return ExportRequest(
        run, header, receipts, target, target_mb * _MB, is_overwriting, source, options, exclusions or Exclusions()
    )


def _check_options(name: str, given: Mapping[str, bool]) -> None:
    """Refuse an option that the format does not read."""
    for option, is_given in given.items():
        if is_given and option not in EXPORTS[name].reads:
            flag = _FLAGS.get(option, f"--{option.replace('_', '-')}")
            known = ", ".join(each for each, export in EXPORTS.items() if option in export.reads)
            raise ConfigError(f"--format {name} does not use {flag}, which belongs to {known}. Leave it out.")


def _check_complete(num_committed: int, num_shards: int, *, is_partial: bool) -> None:
    if not num_committed:
        raise ConfigError("The run has no committed shard yet, so there is nothing to export.")
    if num_committed < num_shards and not is_partial:
        raise ConfigError(
            f"{num_committed:,} of {num_shards:,} shards are committed. Finish the run with the same `annotate` "
            "command, or export the committed shards with --partial."
        )
