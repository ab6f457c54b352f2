"""CRIS and ETRIS: the JSON and PNG files that their tools turn into LMDB. The safest target: their tools serialise.

DEST/anns/<dataset>/<split>.json              a record a mask: box, names, expressions
DEST/masks/<dataset>/<segment_id>.png         8 bits, one channel, 0 or 255, of the image's size
DEST/images/train2014/<img_name>              the images, upright

The constants are the numbers and names in the trainers' code.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedMask
from pseudoris.training.exports.destination import claim_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import counts_of_png, encoded_anew_notes, iter_image_files, mask_png
from pseudoris.training.exports.output_files import (
    Fingerprint,
    JsonArray,
    ManyFiles,
    iter_json_list,
    json_list,
    new_file,
)
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import TextRule

NAME: Final = "cris"
DEFAULT_DATASET: Final = "refcoco"
# Their `info` table in utils/dataset.py has these; for another name it is to be extended.
KNOWN_DATASETS: Final = ("refcoco", "refcoco+", "refcocog_u", "refcocog_g")
# Both cut at 17 CLIP tokens, start and end included (`word_len`).
WORD_LEN: Final = 17
IMAGES_FOLDER: Final = "images/train2014"
# Above every segment id of the human data sets (their ref_ids, below 150,000): the trainers look for human masks of
# val and test in the same folder.
FIRST_SEGMENT_ID: Final = 1_000_000
# Index of the 80 classes of COCO; no loss reads it, and a run has no classes.
CATEGORY_INDEX: Final = 0
_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+")
# Read back at once: on a bucket each is a request.
_READERS: Final = 16
_BATCH: Final = 256


class CrisExport:
    """One record and one PNG a mask; memory holds neither all records nor all names."""

    summary = "anns JSON and mask PNGs, from which folder2lmdb of CRIS and ETRIS makes an LMDB"
    reads = frozenset({"max_tokens", "dataset", "split"})
    default_max_tokens: int | None = WORD_LEN

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images, masks and records as they come, then read masks and records back."""
        dataset, split = checked_names(request)
        anns, masks = f"anns/{dataset}/{split}.json", f"masks/{dataset}"
        claim_destination(request, NAME, (f"anns/{dataset}", masks, IMAGES_FOLDER))
        writer = _Writer(request, masks)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, anns) as path,
            json_list(path) as records,
        ):
            writer.run(files, records, on_progress)
        files.check()
        _check(request.destination, anns, masks, due=writer.written, on_progress=on_progress)
        num_masks = writer.written.num_masks
        rows = {
            "images": writer.num_images,
            f"records of {split}": num_masks,
            "expressions": writer.written.num_texts,
        }
        mark_whole(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": writer.num_images, f"records of {split}": 1, "masks": num_masks},
            size_bytes=files.size_bytes + (request.destination.size(anns) or 0),
            dropped=writer.dropped,
            notes=[
                *length_notes(dataset, split, num_masks),
                f"Then, in the trainer's environment: python tools/folder2lmdb.py -j {anns} -i {IMAGES_FOLDER}/ "
                f"-m {masks} -o lmdb/{dataset}",
                "CRIS as published cannot read what that tool writes: in its utils/dataset.py add `import pickle`, and "
                "let loads_pyarrow(buf) return pickle.loads(buf). ETRIS with pyarrow 11 needs no change.",
                *encoded_anew_notes(writer.num_encoded_anew),
            ],
            checked=(
                "every expression and every mask's pixels equal the run's",
                "segment ids are unique; every image and mask file exists",
            ),
        )


def checked_names(request: ExportRequest) -> tuple[str, str]:
    """Return (data set, split), both fit to be a file's name.

    Raises:
        ConfigError: One of them is not.
    """
    dataset, split = request.options.dataset or DEFAULT_DATASET, request.options.split
    for option, name in (("--dataset", dataset), ("--split", split)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{option} {name!r} becomes a file name. Use only letters, digits, _, + and -.")
    return dataset, split


def length_notes(dataset: str, split: str, num_records: int) -> list[str]:
    """Return what a user must set in the trainer: it trusts a table in its code, not the files, for their length."""
    table = f"info[{dataset!r}][{split!r}]"
    notes = [
        f"Before training, set the number of records in the trainer's utils/dataset.py: {table} = {num_records}. A "
        "higher number ends in an IndexError. A lower number hides records.",
    ]
    if dataset not in KNOWN_DATASETS:
        notes.append(
            f"The trainer's table does not have {dataset!r} (KeyError). Add info[{dataset!r}] = {{{split!r}: "
            f"{num_records}}}."
        )
    return notes


class _Writer:
    """Images, masks and records on their way into the files."""

    def __init__(self, request: ExportRequest, masks: str) -> None:
        self._request = request
        self._masks = masks
        self._segment_ids = count(FIRST_SEGMENT_ID)
        self._sentence_ids = count(1)
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0
        self.num_encoded_anew = 0

    def run(self, files: ManyFiles, records: JsonArray, on_progress: OnProgress) -> None:
        rule = TextRule(self._request.options.max_tokens, is_lower_case=True)
        for image, image_file in iter_image_files(self._request, self.dropped, rule, on_progress):
            self.num_images += 1
            self.num_encoded_anew += image_file.is_encoded_anew
            files.write(IMAGES_FOLDER, image_file.name, image_file.data)
            for mask in image.masks:
                data, counts = mask_png(mask)
                record = self._record(mask, image_file.name)
                files.write(self._masks, f"{record['segment_id']}.png", data)
                records.append(record)
                self.written.add(image_file.name, mask.rle_size, counts, [each["sent"] for each in record["sentences"]])
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)

    def _record(self, mask: AnnotatedMask, img_name: str) -> dict[str, Any]:
        sentences = [
            {"idx": index, "sent_id": next(self._sentence_ids), "sent": expression.text}
            for index, expression in enumerate(mask.expressions)
        ]
        return {
            "bbox": [int(edge) for edge in mask.box_xyxy_px],
            "cat": CATEGORY_INDEX,
            "segment_id": next(self._segment_ids),
            "img_name": img_name,
            # Read by Pseudo-RIS alone.
            "img_id": self.num_images,
            "sentences": sentences,
            "sentences_num": len(sentences),
        }


def _check(destination: RunLocation, anns: str, masks: str, *, due: Fingerprint, on_progress: OnProgress) -> None:
    found, segment_id = Fingerprint(), -1
    with destination.open_input(anns) as file, ThreadPoolExecutor(_READERS, thread_name_prefix="check") as pool:
        records = iter_json_list(file, destination.uri(anns))

        def read(record: dict[str, Any]) -> tuple[tuple[int, int], str]:
            path = f"{masks}/{record['segment_id']}.png"
            return counts_of_png(destination.read_bytes(path), destination.uri(path))

        while batch := list(islice(records, _BATCH)):
            for record, (size, counts) in zip(batch, pool.map(read, batch), strict=True):
                texts = [each["sent"] for each in record["sentences"]]
                if record["segment_id"] <= segment_id or record["sentences_num"] != len(texts) or not texts:
                    raise TransientError(
                        f"{destination.uri(anns)}: segment {record['segment_id']} reads back differently. Run the "
                        "same command again."
                    )
                segment_id = record["segment_id"]
                found.add(record["img_name"], size, counts, texts)
            on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, destination.uri(anns))
