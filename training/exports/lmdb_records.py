"""The LMDB of CRIS and ETRIS, one record a mask: image, mask and expressions together.

DEST/lmdb/<dataset>/<split>.lmdb
DEST/masks/<dataset>/<segment_id>.png      for other splits than train: validation opens them beside the LMDB
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from typing import Any, Final

from schemas.errors import TransientError
from store.annotations import AnnotatedMask
from store.location import RunLocation
from training.exports.annotations import TextRule
from training.exports.cris_names import CATEGORY_INDEX, FIRST_SEGMENT_ID, WORD_LEN, checked_names, length_notes
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.lmdb_file import RecordWriter, iter_records, require_lmdb, writing_records
from training.exports.many_files import ManyFiles
from training.exports.mask_png import counts_of_png, mask_png
from training.exports.pictures import Picture, encoded_anew_notes, iter_pictures
from training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from training.exports.workspace import finish_place, nothing_left, take_place

NAME: Final = "lmdb"
# The one whose masks the trainers take from the LMDB alone.
_TRAIN: Final = "train"
_TOLD_EVERY: Final = 100
_CHUNK_BYTES: Final = 16 * 2**20


class LmdbExport:
    """Each record holds its image whole, as the trainers want it: one of twenty masks stands there twenty times."""

    summary = "the LMDB of CRIS and ETRIS, of pickles: their reader needs one line changed"
    reads = frozenset({"max_tokens", "dataset", "split"})
    default_max_tokens: int | None = WORD_LEN

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write the file on this disk and read it back there; once it stands at its place, compare it byte by byte."""
        require_lmdb()
        dataset, split = checked_names(request)
        path, masks = f"lmdb/{dataset}/{split}.lmdb", f"masks/{dataset}"
        take_place(request, NAME, (f"lmdb/{dataset}", masks))
        writing = _Writing(request)
        with ManyFiles(request.destination) as files, new_file(request.destination, path) as local:
            with writing_records(local) as records:
                writing.run(records, None if split == _TRAIN else files, masks, on_progress)
            _check_records(local, request.destination.uri(path), due=writing.written, on_progress=on_progress)
            size_bytes, digest = local.stat().st_size, _digest(local)
        files.check()
        _check_copy(request.destination, path, digest)
        num_records = writing.written.num_masks
        rows = {f"records of {split}": num_records, "expressions": writing.written.num_texts}
        finish_place(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows={"images": writing.num_images, **rows},
            files={f"records of {split}": 1, **({"masks": files.num_files} if files.num_files else {})},
            size_bytes=size_bytes + files.size_bytes,
            dropped=writing.dropped,
            notes=[
                *length_notes(dataset, split, num_records),
                "Values are pickles: let loads_pyarrow(buf) in the trainer's utils/dataset.py return "
                "pickle.loads(buf).",
                *encoded_anew_notes(writing.num_encoded_anew),
            ],
            checked=(
                "every mask, pixel by pixel, and every expression is the run's",
                "__len__, __keys__ and the records fit each other; segment ids are unique",
            ),
        )


class _Writing:
    """Records on their way into the file."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._segment_ids = count(FIRST_SEGMENT_ID)
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0
        self.num_encoded_anew = 0

    def run(self, records: RecordWriter, files: ManyFiles | None, masks: str, on_progress: OnProgress) -> None:
        rule = TextRule(self._request.options.max_tokens, is_lower_case=True)
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
            self.num_images += 1
            self.num_encoded_anew += picture.is_encoded_anew
            for mask in image.masks:
                png, counts = mask_png(mask)
                record = self._record(mask, picture, png)
                records.put(record)
                self.written.add(picture.name, mask.rle_size, counts, record["sents"])
                if files is not None:
                    files.write(masks, f"{record['seg_id']}.png", png)
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)

    def _record(self, mask: AnnotatedMask, picture: Picture, png: bytes) -> dict[str, Any]:
        sents = [expression.text for expression in mask.expressions]
        return {
            "img": picture.data,
            "mask": png,
            "cat": CATEGORY_INDEX,
            "seg_id": next(self._segment_ids),
            "img_name": picture.name,
            # Read by Pseudo-RIS alone.
            "img_id": self.num_images,
            "num_sents": len(sents),
            "sents": sents,
        }


def _check_records(local: Path, name: str, *, due: Fingerprint, on_progress: OnProgress) -> None:
    found, seg_id = Fingerprint(), -1
    for record in iter_records(local, name):
        if record["seg_id"] <= seg_id or not _is_consistent(record):
            raise TransientError(f"{name}: record {found.num_masks} does not read back: run the same command again")
        seg_id = record["seg_id"]
        size, counts = counts_of_png(record["mask"], f"{name}, record {found.num_masks}")
        found.add(record["img_name"], size, counts, record["sents"])
        if found.num_masks % _TOLD_EVERY == 0 or found.num_masks == due.num_masks:
            on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, name)


def _is_consistent(record: Mapping[str, Any]) -> bool:
    has_texts = record["num_sents"] == len(record["sents"]) > 0 and all(record["sents"])
    return has_texts and type(record["seg_id"]) is int and bool(record["img"])


def _digest(local: Path) -> str:
    with local.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _check_copy(destination: RunLocation, path: str, due: str) -> None:
    """What was read back stood on this disk; what stands at the destination must be the same bytes."""
    digest = sha256()
    with destination.open_input(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != due:
        raise TransientError(f"{destination.uri(path)} is not the file that was sent: run the same command again")
