"""The LMDB of CRIS and ETRIS: a record a mask, with image, mask and expressions.

DEST/lmdb/<dataset>/<split>.lmdb DEST/masks/<dataset>/<segment_id>.png      for splits other than train: validation
opens them with the LMDB

The file holds records under "0" … "N-1", their keys under `__keys__`, and N under `__len__`. Values are pickles.
ETRIS reads with `pyarrow.deserialize`, which pyarrow 13 removed; CRIS as published writes pickles and reads with
pyarrow. Current libraries can write neither form. Both trainers read pickles after a change of one line.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedMask
from pseudoris.training.exports.cris import CATEGORY_INDEX, FIRST_SEGMENT_ID, WORD_LEN, checked_names, length_notes
from pseudoris.training.exports.destination import claim_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import (
    ImageFile,
    counts_of_png,
    encoded_anew_notes,
    iter_image_files,
    mask_png,
)
from pseudoris.training.exports.output_files import Fingerprint, ManyFiles, new_file
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import TextRule
from pseudoris.training.untrusted_pickle import load_plain

NAME: Final = "lmdb"
# Python 3.4 and later read it.
PICKLE_PROTOCOL: Final = 4
KEYS: Final = b"__keys__"
LENGTH: Final = b"__len__"
# Address space, not disk: the file grows as it is filled. The trainers' own writer takes as much.
_MAP_BYTES: Final = 2**41
# What one transaction holds in memory.
_COMMIT_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 16 * 2**20
# The one whose masks the trainers take from the LMDB alone.
_TRAIN: Final = "train"
_PROGRESS_EVERY: Final = 100


class LmdbExport:
    """Each record holds its whole image, as the trainers expect: an image of twenty masks is stored twenty times."""

    summary = "the LMDB of CRIS and ETRIS, with pickles: their reader needs two lines changed"
    reads = frozenset({"max_tokens", "dataset", "split"})
    default_max_tokens: int | None = WORD_LEN

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write the file on this disk and read it back; then compare the one at the destination byte by byte."""
        require_lmdb()
        dataset, split = checked_names(request)
        path, masks = f"lmdb/{dataset}/{split}.lmdb", f"masks/{dataset}"
        claim_destination(request, NAME, (f"lmdb/{dataset}", masks))
        writer = _Writer(request)
        with ManyFiles(request.destination) as files, new_file(request.destination, path) as local:
            with writing_records(local) as records:
                writer.run(records, None if split == _TRAIN else files, masks, on_progress)
            _check_records(local, request.destination.uri(path), due=writer.written, on_progress=on_progress)
            size_bytes, digest = local.stat().st_size, _digest(local)
        files.check()
        _check_copy(request.destination, path, digest)
        num_records = writer.written.num_masks
        rows = {f"records of {split}": num_records, "expressions": writer.written.num_texts}
        mark_whole(request, NAME, {"dataset": dataset, "rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows={"images": writer.num_images, **rows},
            files={f"records of {split}": 1, **({"masks": files.num_files} if files.num_files else {})},
            size_bytes=size_bytes + files.size_bytes,
            dropped=writer.dropped,
            notes=[
                *length_notes(dataset, split, num_records),
                "Values are pickles. In the trainer's utils/dataset.py add `import pickle`, and let loads_pyarrow(buf) "
                "return pickle.loads(buf).",
                *encoded_anew_notes(writer.num_encoded_anew),
            ],
            checked=(
                "every expression and every mask's pixels equal the run's",
                "__len__, __keys__ and the records agree; segment ids are unique",
            ),
        )


class _Writer:
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
        for image, image_file in iter_image_files(self._request, self.dropped, rule, on_progress):
            self.num_images += 1
            self.num_encoded_anew += image_file.is_encoded_anew
            for mask in image.masks:
                png, counts = mask_png(mask)
                record = self._record(mask, image_file, png)
                records.put(record)
                self.written.add(image_file.name, mask.rle_size, counts, record["sents"])
                if files is not None:
                    files.write(masks, f"{record['seg_id']}.png", png)
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)

    def _record(self, mask: AnnotatedMask, image_file: ImageFile, png: bytes) -> dict[str, Any]:
        sents = [expression.text for expression in mask.expressions]
        return {
            "img": image_file.data,
            "mask": png,
            "cat": CATEGORY_INDEX,
            "seg_id": next(self._segment_ids),
            "img_name": image_file.name,
            # Read by Pseudo-RIS alone.
            "img_id": self.num_images,
            "num_sents": len(sents),
            "sents": sents,
        }


def require_lmdb() -> ModuleType:
    """Return the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import lmdb
    except ImportError:
        raise ConfigError("The format lmdb needs one more package: pip install 'lmdb>=1.6,<4'") from None
    module: ModuleType = lmdb
    return module


class RecordWriter:
    """Puts records under the keys "0", "1" and so on."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._transaction = environment.begin(write=True)
        self._pending_bytes = 0
        self.num_records = 0

    def put(self, record: Mapping[str, Any]) -> None:
        """Add a record of plain values."""
        self._put(str(self.num_records).encode("ascii"), pickle.dumps(record, protocol=PICKLE_PROTOCOL))
        self.num_records += 1

    def finish(self) -> None:
        """Add keys and length.

        Memory holds all keys for a moment, some 60 bytes a record, as in the trainers' loaders.
        """
        keys = [str(number).encode("ascii") for number in range(self.num_records)]
        self._put(KEYS, pickle.dumps(keys, protocol=PICKLE_PROTOCOL))
        self._put(LENGTH, pickle.dumps(self.num_records, protocol=PICKLE_PROTOCOL))
        self._transaction.commit()

    def _put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value)
        self._pending_bytes += len(value)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._transaction.commit()
            self._transaction = self._environment.begin(write=True)
            self._pending_bytes = 0


@contextmanager
def writing_records(path: Path) -> Iterator[RecordWriter]:
    """Write a new LMDB file to `path` of this disk; after the block it holds keys and length too.

    Raises:
        ConfigError: The package is missing, or the disk does not take the file.
    """
    lmdb = require_lmdb()
    # One process writes, and syncs once, at the end: no lock file, and nothing to recover to before that.
    options = {"subdir": False, "map_size": _MAP_BYTES, "lock": False, "sync": False, "metasync": False}
    try:
        with lmdb.open(str(path), **options) as environment:
            writer = RecordWriter(environment)
            yield writer
            writer.finish()
            environment.sync(True)
    except lmdb.Error as error:
        raise ConfigError(
            f"An LMDB cannot be written in {path.parent}: {error}. Free space, or choose another disk."
        ) from error


def _check_records(local: Path, name: str, *, due: Fingerprint, on_progress: OnProgress) -> None:
    found, seg_id = Fingerprint(), -1
    for record in iter_records(local, name):
        if record["seg_id"] <= seg_id or not _is_consistent(record):
            raise TransientError(f"{name}: record {found.num_masks} cannot be read back. Run the same command again.")
        seg_id = record["seg_id"]
        size, counts = counts_of_png(record["mask"], f"{name}, record {found.num_masks}")
        found.add(record["img_name"], size, counts, record["sents"])
        if found.num_masks % _PROGRESS_EVERY == 0 or found.num_masks == due.num_masks:
            on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, name)


def _is_consistent(record: Mapping[str, Any]) -> bool:
    has_texts = record["num_sents"] == len(record["sents"]) > 0 and all(record["sents"])
    return has_texts and type(record["seg_id"]) is int and bool(record["img"])


def iter_records(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of this disk in their order, opened as the trainers open it; `name` is for errors.

    Raises:
        TransientError: Keys, length and records do not fit each other, or a value is not a pickle of plain values.
    """
    lmdb = require_lmdb()
    options = {"subdir": False, "readonly": True, "lock": False, "readahead": False, "map_size": _MAP_BYTES}
    with lmdb.open(str(path), **options) as environment, environment.begin() as transaction:
        length, keys = (_loads(transaction.get(key), name) for key in (LENGTH, KEYS))
        if type(length) is not int or keys != [str(number).encode("ascii") for number in range(length)]:
            raise TransientError(f"{name}: __len__ and __keys__ do not agree. Run the same command again.")
        if transaction.stat()["entries"] != length + 2:
            raise TransientError(f"{name}: __len__ is {length}, but the number of records differs")
        for key in keys:
            yield _loads(transaction.get(key), name)


def _loads(value: bytes | None, name: str) -> Any:
    try:
        return load_plain(value or b"", name, with_bytes=True)
    except ConfigError as error:
        raise TransientError(f"{error}. Run the same command again.") from error


def _check_copy(destination: RunLocation, path: str, due: str) -> None:
    """Raise unless the destination holds the same bytes as the local file that was read back."""
    digest = sha256()
    with destination.open_input(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != due:
        raise TransientError(
            f"{destination.uri(path)} differs from the file that was sent. Run the same command again."
        )


def _digest(local: Path) -> str:
    with local.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
