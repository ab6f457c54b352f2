"""Exports a run to the formats of other tools. Called by `cli/export.py` and `pseudoris.export`.

A new format is a module of this package with an `ExportFormat`, and its name in `EXPORTS`. Invalid combinations of
options are rejected before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.coco_export import COCO, GREFCOCO, SAM3
from pseudoris.interchange.exports.conversations import FACTORY, QWEN, SWIFT
from pseudoris.interchange.exports.cris import CRIS, LMDB
from pseudoris.interchange.exports.export_job import WRITING, ExportFormat
from pseudoris.interchange.exports.export_options import ExportOptions, ExportReport, ExportRequest
from pseudoris.interchange.exports.huggingface import HF
from pseudoris.interchange.exports.json_pairs import REASONSEG, SA1B
from pseudoris.interchange.exports.merged_parquet import PARQUET
from pseudoris.interchange.exports.pseudo_ris_csv import PSEUDO_RIS_CSV
from pseudoris.interchange.exports.record_lists import LABEL_STUDIO, ODVG, SA2VA
from pseudoris.interchange.exports.refer import REFER
from pseudoris.interchange.exports.webdataset import WEBDATASET
from pseudoris.interchange.human_refs import HumanAnnotation
from pseudoris.primitives.errors import ConfigError, check_number
from pseudoris.primitives.uris import writable
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.runs.held_out_pictures import unknown_split
from pseudoris.store.tables.open_run import OpenRun

__all__ = [
    "EXPORTS",
    "WRITING",
    "ExportFormat",
    "ExportOptions",
    "ExportReport",
    "ExportRequest",
    "HumanAnnotation",
    "export_request",
    "find_export",
]

EXPORTS: Final[dict[str, ExportFormat]] = {
    each.name: each
    for each in (
        *(PARQUET, REFER, CRIS, LMDB, COCO, SA1B, WEBDATASET, HF, PSEUDO_RIS_CSV),
        *(SWIFT, FACTORY, QWEN, SAM3, ODVG, SA2VA, GREFCOCO, REASONSEG, LABEL_STUDIO),
    )
}


def find_export(name: str) -> ExportFormat:
    """Return the format of a name."""
    if name not in EXPORTS:
        raise ConfigError(f"There is no export format {name!r}. Give --format {' or '.join(EXPORTS)}.")
    return EXPORTS[name]


def export_request(
    out: str,
    destination: str,
    export_format: str,
    options: ExportOptions,
    *,
    source: str | Mapping[str, str] | None = None,
    is_partial: bool = False,
    is_overwriting: bool = False,
    exclusions: Exclusions = (),
) -> ExportRequest:
    """Return what `find_export(export_format).write` needs; nothing is written.

    Only options that the format reads may differ from their defaults. `source` is where the run's images are now, if
    they have moved. With `is_partial` an unfinished run is exported, with `is_overwriting` an export is replaced.
    """
    chosen = find_export(export_format)
    run, target = RunLocation.open_to_read(out), RunLocation.open(writable(destination))
    opened = OpenRun.at(run)
    splits = opened.header.splits
    if splits is not None and options.split is not None and options.split not in filter(None, splits.images):
        raise unknown_split(run, splits, options.split, "give --split")
    if splits is not None and options.split is None and chosen.has_one_split:
        there = ", ".join(filter(None, splits.images))
        raise ConfigError(f"--format {chosen.name} has one split, and {run.root} has {there}: give --split NAME.")
    for option in fields(options):
        name, value, bounds = option.name, getattr(options, option.name), option.metadata
        flag = "--merge-human" if name == "human" else f"--{name.replace('_', '-')}"
        if "min" in bounds:
            kind = {"is_whole": option.type != "float", "is_needed": option.default is not None}
            check_number(flag, value, bounds["min"], bounds.get("max", 2**63 - 1), **kind)
        # Label Studio's export has no rewording: its import compares the run's own texts with the corrected ones.
        of_all = {*EXPORTS} - {LABEL_STUDIO.name} if name == "rewording" else set[str]()
        readers = [each.name for each in EXPORTS.values() if name in each.reads or each.name in of_all]
        is_read = chosen.name in readers or (name == "split" and splits is not None)
        if not is_read and value != option.default:
            known = ", ".join(readers)
            raise ConfigError(f"--format {chosen.name} does not use {flag}, which belongs to {known}. Leave it out.")
    if target.root == run.root or target.root.startswith(f"{run.root}/"):
        raise ConfigError(f"DEST {destination!r} is inside the run. Name a place outside it.")
    if not opened.receipts:
        raise ConfigError("The run has no committed shard yet, so there is nothing to export.")
    if not opened.is_complete and not is_partial:
        done = f"{len(opened.receipts):,} of {opened.header.num_shards:,} shards are committed"
        raise ConfigError(f"{done}. Finish the run, or export the committed shards with --partial.")
    return ExportRequest(opened, target, options, is_overwriting=is_overwriting, source=source, exclusions=exclusions)
