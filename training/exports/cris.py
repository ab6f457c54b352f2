"""The files between REFER and LMDB in the tools of CRIS and ETRIS: the safest target, since they serialise the rest.

DEST/anns/<dataset>/<split>.json              a record a mask: box, names, expressions
DEST/masks/<dataset>/<segment_id>.png         8 bits, one channel, 0 or 255, of the image's size
DEST/images/train2014/<img_name>              the images, upright
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any, Final

from schemas.errors import TransientError
from store.annotations import AnnotatedMask
from store.location import RunLocation
from training.exports.annotations import TextRule
from training.exports.cris_names import (
    CATEGORY_INDEX,
    FIRST_SEGMENT_ID,
    IMAGES_FOLDER,
    WORD_LEN,
    checked_names,
    length_notes,
)
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.json_arrays import JsonArray, iter_json_list, json_list
from training.exports.many_files import ManyFiles
from training.exports.mask_png import counts_of_png, mask_png
from training.exports.pictures import encoded_anew_notes, iter_pictures
from training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from training.exports.workspace import finish_place, nothing_left, take_place

NAME: Final = "cris"
# Read back at once: on a bucket each is a request.
_READERS: Final = 16
_BATCH: Final = 256


class CrisExport:
    """One record and one PNG a mask; memory holds neither all records nor all names."""

    summary = "anns JSON and mask PNGs, which folder2lmdb of CRIS and ETRIS turns into their LMDB"
    reads = frozenset({"max_tokens", "dataset", "split"})
    default_max_tokens: int | None = WORD_LEN

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images, masks and records as they come, then read masks and records back."""
        dataset, split = checked_names(request)
        anns, masks = f"anns/{dataset}/{split}.json", f"masks/{dataset}"
        take_place(request, NAME, (f"anns/{dataset}", masks, IMAGES_FOLDER))
        writing = _Writing(request, masks)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, anns) as path,
            json_list(path) as records,
        ):
            writing.run(files, records, on_progress)
        files.check()
        _check(request.destination, anns, masks, due=writing.written, on_progress=on_progress)
        num_masks = writing.written.num_masks
        rows = {
            "images": writing.num_images,
            f"records of {split}": num_masks,
            "expressions": writing.written.num_texts,
        }
        finish_place(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": writing.num_images, f"records of {split}": 1, "masks": num_masks},
            size_bytes=files.size_bytes + (request.destination.size(anns) or 0),
            dropped=writing.dropped,
            notes=[
                *length_notes(dataset, split, num_masks),
                f"Then, in the trainer's environment: python tools/folder2lmdb.py -j {anns} -i {IMAGES_FOLDER}/ "
                f"-m {masks} -o lmdb/{dataset}",
                *encoded_anew_notes(writing.num_encoded_anew),
            ],
            checked=(
                "every mask, pixel by pixel, and every expression is the run's",
                "segment ids are unique; every image and mask file stands",
            ),
        )


class _Writing:
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
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
            self.num_images += 1
            self.num_encoded_anew += picture.is_encoded_anew
            files.write(IMAGES_FOLDER, picture.name, picture.data)
            for mask in image.masks:
                data, counts = mask_png(mask)
                record = self._record(mask, picture.name)
                files.write(self._masks, f"{record['segment_id']}.png", data)
                records.append(record)
                self.written.add(picture.name, mask.rle_size, counts, [each["sent"] for each in record["sentences"]])
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
                        f"{destination.uri(anns)}: segment {record['segment_id']} does not read back as it was: "
                        "run the same command again"
                    )
                segment_id = record["segment_id"]
                found.add(record["img_name"], size, counts, texts)
            on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, destination.uri(anns))
