"""Exports the layout of the Pseudo-RIS authors' script, which their own trainer class reads.

    DEST/pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv       a row per mask
    DEST/datasets/pseudo_masks/cutler_sam/<img_id>/<seg_id>.png            0 and 255, of the image's size
    DEST/datasets/images/train2014/<img_name>                              the images, upright

Listed in `EXPORTS` for `cli/export`. As in the authors' file, a row holds every candidate, kept or not: the trainer
filters by `doc` while it draws, and draws any candidate if none passes. So `doc` is above tau only for what is kept.
For a mask alone in its image it is the correctness: the trainer draws the better half by it, whatever tau is.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final, TypeAlias

import numpy as np

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import mask_png
from pseudoris.interchange.exports.record import Content, ExportImage
from pseudoris.interchange.exports.selected_rows import TextRule, is_distinctive
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.keep_rule import is_lone
from pseudoris.schemas.shard import SOURCE_HUMAN, SOURCE_MODEL, ExpressionRecord

CSV_FOLDER: Final = "pseudo_supervision/cutler_sam"
CSV_NAME: Final = "distinctive_captions_cc3m.csv"
MASKS_FOLDER: Final = "datasets/pseudo_masks/cutler_sam"
IMAGES_FOLDER: Final = "datasets/images/train2014"
COLUMNS: Final = ("index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask")
# Expressions without scores (human or composed) get this: it is above the threshold of any run, and finite, because
# the trainer evaluates its text.
DOC_OF_HUMANS: Final = 2.0
# A draw is a caption's crop, decoder, k and p.
Draw: TypeAlias = tuple[str, str, int | None, float | None]


def _write(job: ExportJob) -> ExportReport:
    csv_path = f"{CSV_FOLDER}/{CSV_NAME}"
    job.claim(CSV_FOLDER, IMAGES_FOLDER, numbered=_masks_folder)
    of_models = [each.config for each in job.request.run.header.runs if not each.is_human]
    config, seen = (of_models or [job.request.run.header.config])[0], Counter[str]()
    for each in of_models:
        if (each.filtering.tau, each.captions) != (config.filtering.tau, config.captions):
            raise ConfigError(
                f"{CSV_NAME} has one tau and one list of draws for all rows, and {job.request.run.location.root} "
                "combines runs of several: export each run, or refilter with one --tau"
            )
    # Draws are ordered by crop, then beam, top-k and top-p, as in the authors' script: the option `beam_search` of
    # their loader reads captions by place.
    draws = itertools.product(config.captions.crop_kinds(), config.captions.decoding_rules())
    places: dict[Draw, int] = {
        (crop, rule.name, rule.top_k, rule.top_p): place for place, (crop, rule) in enumerate(draws)
    }
    with job.new_file(csv_path) as path, path.open("w", encoding="utf-8", newline="") as file:
        file.write(_line(COLUMNS))
        for image in job.images(IMAGES_FOLDER):
            file.writelines(_write_masks(job, image, places, seen))
    num_masks = job.written.num_masks
    notes = [
        f"Give the trainer doc_mode=True, doc_value={config.filtering.tau!r} (the run's tau), "
        f"image_dir={IMAGES_FOLDER} and mask_dir={MASKS_FOLDER}."
    ]
    if seen["unfiltered"]:
        notes.append(
            f"{seen['unfiltered']:,} of {num_masks:,} rows have no caption above doc_value: the trainer "
            "draws any caption of theirs. --distinctive-only leaves such masks out."
        )
    if seen["human"]:
        notes.append(f"Human expressions have no score: for {seen['human']:,} masks doc is {DOC_OF_HUMANS}.")
    return job.report(
        {"images": job.num_images, "rows": num_masks, "captions": job.written.num_texts},
        {"images": job.num_images, "rows": 1, "masks": num_masks},
        notes=notes,
        checked="every row evaluates to captions and as many scores; every PNG decodes to its mask",
    )


_TAKES: Final = TextRule(is_kept_only=False, with_samples=True)
_SUMMARY: Final = "the Pseudo-RIS authors' CSV with mask PNGs: all candidates with their scores"
_READS: Final = ("max_tokens", "distinctive_only")
PSEUDO_RIS_CSV: Final = ExportFormat("pseudo-ris-csv", _SUMMARY, _write, _TAKES, _READS, has_one_split=True)


def _masks_folder(number: int) -> str:
    """Return the folder of an image's masks by the image's number from 0; the first `img_id` is 1."""
    return f"{MASKS_FOLDER}/{number + 1}"


def _write_masks(job: ExportJob, image: ExportImage, places: Mapping[Draw, int], seen: Counter[str]) -> Iterator[str]:
    """Write the PNGs of an image's masks, and yield a row for each, of values that their own text evaluates to."""
    tau, img_id, last = job.request.run.header.config.filtering.tau, image.number, len(places)
    # Masks are numbered without gaps, because the authors' script counts the files of the folder.
    for seg_id, (mask, said) in enumerate(image.masks_with_texts()):
        data, counts = mask_png(mask)
        job.files.write(_masks_folder(img_id - 1), f"{seg_id}.png", data)
        expressions = [each.record for each in said]
        ratios = [each.distinctiveness for each in expressions if each.source == SOURCE_MODEL]
        is_alone = bool(ratios) and bool(is_lone(np.array(ratios, np.float64)).all())
        drawn = [[(by.crop, by.decoder, by.top_k, by.top_p) for by in each.samples] for each in expressions]
        # A caption is repeated at the place of each of its draws, because the trainer draws evenly from the list.
        # Texts that were not drawn come last.
        rows = [
            (place, str(each.text), _doc(each, is_alone, tau))
            for each, own in zip(expressions, drawn, strict=True)
            for place in [places.get(by, last) for by in own] or [last]
        ]
        rows.sort(key=lambda row: row[0])
        # A mask's only caption is written twice: the trainer takes half of the captions, and half of 1 is 0.
        rows = rows * 2 if len(rows) == 1 else rows
        captions, doc = [text for _, text, _ in rows], [score for *_, score in rows]
        seen["unfiltered"] += not is_distinctive(expressions)
        seen["human"] += any(each.source == SOURCE_HUMAN for each in expressions)
        ids = (mask.number - 1, image.name, img_id, seg_id)
        line = _line((*ids, len(captions), repr(captions), repr(doc), int(is_alone)))
        name, found = _captions(line)
        due = Content.of_mask(f"{img_id}/{seg_id}", image.size, counts, captions)
        job.add(due, Content.of_mask(name, image.size, counts, found))
        yield line


def _doc(expression: ExpressionRecord, is_alone: bool, tau: float) -> float:
    if expression.source != SOURCE_MODEL:
        return DOC_OF_HUMANS if expression.kept else 0.0
    # Captions of a lone mask have no distinctiveness. As in the authors' script, their correctness takes its place.
    # An expression without a noun has no correctness. It gets 0, so that the trainer draws it last.
    score = float((expression.correctness if is_alone else expression.distinctiveness) or 0.0)
    # The trainer knows tau alone, so what other conditions of the run reject is written as not above it.
    return score if is_alone or expression.kept else min(score, tau)


def _line(row: Sequence[Any]) -> str:
    line = io.StringIO()
    # Lines end as on Unix, because the csv module by default ends them as on Windows.
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()


def _captions(line: str) -> tuple[str, list[str]]:
    """Return the ids of a written row, and its captions as the trainer evaluates them; [] if it cannot draw of them."""
    # The limit is raised: by default a field has at most 128 KiB, but a mask may have thousands of captions.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    (row,) = csv.DictReader([line], COLUMNS)
    try:
        captions, doc = ast.literal_eval(row["pseudo_caption"]), ast.literal_eval(row["doc"])
    except (ValueError, SyntaxError):
        captions, doc = [], []
    is_sound = len(captions) == len(doc) == int(row["num_sent"]) and all(map(isfinite, doc))
    return f"{row['img_id']}/{row['seg_id']}", captions if is_sound else []
