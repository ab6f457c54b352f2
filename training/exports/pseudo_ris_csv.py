"""The layout of the Pseudo-RIS authors' script, which their own trainer class reads.

    DEST/pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv       a row a mask
    DEST/datasets/pseudo_masks/cutler_sam/<img_id>/<seg_id>.png            0 and 255, of the image's size
    DEST/datasets/images/train2014/<img_name>                              the images, upright

As there, a row holds every candidate, kept or not: the trainer filters by `doc` while it draws.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any, Final

from schemas.shard import SOURCE_HUMAN, SOURCE_MODEL
from store.annotations import AnnotatedExpression, AnnotatedMask
from training.exports.annotations import TextRule
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.many_files import ManyFiles
from training.exports.mask_png import mask_png
from training.exports.numbered_folders import take_numbered_place
from training.exports.pictures import iter_pictures
from training.exports.protocol import ExportReport, ExportRequest, OnProgress
from training.exports.pseudo_ris_check import check_csv
from training.exports.workspace import finish_place, nothing_left

NAME: Final = "pseudo-ris-csv"
CSV_FOLDER: Final = "pseudo_supervision/cutler_sam"
CSV_NAME: Final = "distinctive_captions_cc3m.csv"
MASKS_FOLDER: Final = "datasets/pseudo_masks/cutler_sam"
IMAGES_FOLDER: Final = "datasets/images/train2014"
COLUMNS: Final = ("index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask")
# Of what nothing scored, a human's or a composed one: above the threshold of any run, and finite, since the trainer
# evaluates its text.
DOC_OF_HUMANS: Final = 2.0


class PseudoRisCsvExport:
    """Rows, masks and images as the authors' script leaves them for its trainer."""

    summary = "the Pseudo-RIS authors' CSV with mask PNGs: all candidates with their scores"
    reads = frozenset({"max_tokens"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images and masks as they come and the CSV beside them, then read CSV and masks back."""
        take_numbered_place(request, NAME, (CSV_FOLDER, IMAGES_FOLDER), masks_folder)
        csv_path = f"{CSV_FOLDER}/{CSV_NAME}"
        writing = _Writing(request)
        with new_file(request.destination, csv_path) as path, path.open("w", encoding="utf-8", newline="") as file:
            # The line's end is fixed: the csv module's own is Windows'.
            rows_file = csv.writer(file, lineterminator="\n")
            rows_file.writerow(COLUMNS)
            writing.run(rows_file, on_progress)
        check_csv(request.destination, csv_path, masks_folder, due=writing.written, on_progress=on_progress)
        rows = {"images": writing.num_images, "rows": writing.written.num_masks, "captions": writing.written.num_texts}
        finish_place(request, NAME, {"rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": writing.num_images, "rows": 1, "masks": writing.written.num_masks},
            size_bytes=writing.size_bytes + (request.destination.size(csv_path) or 0),
            dropped=writing.dropped,
            notes=writing.notes(),
            checked=(
                "every row evaluates to captions, none of them empty, and as many scores",
                "every mask, pixel by pixel, and every caption is the run's; image and segment ids are unique",
            ),
        )


def masks_folder(number: int) -> str:
    """Return the folder of an image's masks by the image's number from 0; the first `img_id` is 1."""
    return f"{MASKS_FOLDER}/{number + 1}"


class _Writing:
    """Images, masks and rows on their way into the files."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._num_human = 0
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0
        self.size_bytes = 0

    def run(self, rows_file: Any, on_progress: OnProgress) -> None:
        """Write everything; images in one folder, masks in one an image."""
        rule = TextRule(self._request.options.max_tokens, is_kept_only=False)
        with ManyFiles(self._request.destination) as pictures:
            for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
                pictures.write(IMAGES_FOLDER, picture.name, picture.data)
                self._add_masks(picture.name, image.masks, rows_file)
                self.num_images += 1
        pictures.check()
        self.size_bytes += pictures.size_bytes
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)

    def _add_masks(self, img_name: str, masks: Sequence[AnnotatedMask], rows_file: Any) -> None:
        folder = masks_folder(self.num_images)
        # What is written is remembered by folder: an image's own object is forgotten with the image.
        with ManyFiles(self._request.destination) as files:
            # Numbered without a gap, whatever was left out: the authors' script counts the files of the folder.
            for seg_id, mask in enumerate(masks):
                data, counts = mask_png(mask)
                files.write(folder, f"{seg_id}.png", data)
                captions, doc = captions_of(mask.expressions)
                index = self.written.num_masks
                one_mask = int(is_alone(mask.expressions))
                self._num_human += any(each.source == SOURCE_HUMAN for each in mask.expressions)
                rows_file.writerow(
                    (index, img_name, self.num_images + 1, seg_id, len(captions), repr(captions), repr(doc), one_mask)
                )
                self.written.add(f"{self.num_images + 1}/{seg_id}", mask.rle_size, counts, captions)
        files.check()
        self.size_bytes += files.size_bytes

    def notes(self) -> list[str]:
        """Return what the trainer must be told."""
        tau = self._request.header.config.filtering.tau
        notes = [
            f"Give the trainer doc_mode=True, doc_value={tau!r} (the run's tau), image_dir={IMAGES_FOLDER} and "
            f"mask_dir={MASKS_FOLDER}."
        ]
        if self._num_human:
            notes.append(f"A human's expressions have no score: of {self._num_human:,} masks doc says {DOC_OF_HUMANS}.")
        return notes


def captions_of(expressions: Sequence[AnnotatedExpression]) -> tuple[list[str], list[float]]:
    """Return a mask's captions and their `doc`, plain values that their own text evaluates to.

    A caption stands as often as it was drawn, since the trainer draws evenly from the list. A mask alone has no
    distinctiveness: as in the authors' script its `doc` is the correctness, of which the trainer takes the upper half;
    half of one is none, so a single caption stands twice.
    """
    times = [max(each.count, 1) for each in expressions]
    scores = map(_doc, expressions, repeat(is_alone(expressions)))
    texts = list(chain.from_iterable(map(repeat, (str(each.text) for each in expressions), times)))
    doc = list(chain.from_iterable(map(repeat, scores, times)))
    return (texts, doc) if len(texts) > 1 else (texts * 2, doc * 2)


def is_alone(expressions: Sequence[AnnotatedExpression]) -> bool:
    """Return whether a mask was scored without a rival: a model's expressions, none of them with a distinctiveness."""
    models = [each for each in expressions if each.source == SOURCE_MODEL]
    return bool(models) and all(each.distinctiveness is None for each in models)


def _doc(expression: AnnotatedExpression, is_alone: bool) -> float:
    if expression.source != SOURCE_MODEL:
        return DOC_OF_HUMANS
    score = expression.correctness if is_alone else expression.distinctiveness
    # Without a noun there is no correctness: the last that the trainer would draw.
    return float(score or 0.0)
