"""Exports for CRIS and ETRIS: files for their tools, or LMDB; a record per mask. In `EXPORTS` for `cli/export`.

    DEST/anns/<dataset>/<split>.json              cris: box, names, expressions of each mask
    DEST/masks/<dataset>/<segment_id>.png         8 bits, one channel, 0 or 255, of the image's size
    DEST/images/train2014/<img_name>              cris: the images, upright
    DEST/lmdb/<dataset>/<split>.lmdb              lmdb: image, mask, expressions; for splits other than train, which
                                                  validation opens together with it, the masks above stand beside it

`cris` is the safest target: their own tools make the LMDB of it. The LMDB holds records under "0" … "N-1", their keys
under `__keys__`, and N under `__len__`. Values are pickles. ETRIS reads with `pyarrow.deserialize`, which pyarrow 13
removed; CRIS as published writes pickles and reads with pyarrow. Both read pickles after a change of one line. Keys and
paths must stay those that their readers open.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import counts_of_png, mask_png
from pseudoris.interchange.exports.output_files import ManyFiles, read_ahead, read_records
from pseudoris.interchange.exports.record import Content, ExportExpression, ExportImage, ExportMask, broken
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.interchange.untrusted_pickle import load_plain
from pseudoris.primitives.errors import ConfigError, TransientError

# The `info` table in utils/dataset.py of CRIS and ETRIS has these names. For another, the user must extend it.
_KNOWN_DATASETS: Final = ("refcoco", "refcoco+", "refcocog_u", "refcocog_g")
# Both trainers cut texts at 17 CLIP tokens (`word_len`), which include the start and end tokens.
_TAKES: Final = TextRule(max_tokens=17, is_lower_case=True)
_READS: Final = ("max_tokens", "dataset", "split")
_IMAGES_FOLDER: Final = "images/train2014"
# The ids are above those of the human data sets (their ref_ids, below 150,000), because the trainers look for human
# masks of val and test in the same folder.
_FIRST_SEGMENT_ID: Final = 1_000_000
# Each record has this index of a COCO class, because a run has no classes. No loss reads it.
_CATEGORY_INDEX: Final = 0


def _write_folders(job: ExportJob) -> ExportReport:
    """Write images, masks and records as they come, then read masks and records back."""
    dataset, split = job.names(_KNOWN_DATASETS[0])
    destination, anns, masks = job.destination, f"anns/{dataset}/{split}.json", f"masks/{dataset}"
    job.claim(f"anns/{dataset}", masks, _IMAGES_FOLDER, dataset=dataset)
    with job.files() as files, job.records(anns) as records:
        for image, mask, said, segment_id, png in _new_masks(job):
            if mask is image.masks[0]:
                files.write(_IMAGES_FOLDER, image.name, image.data)
            files.write(masks, f"{segment_id}.png", png)
            sentences = [{"idx": index, "sent_id": each.number, "sent": each.text} for index, each in enumerate(said)]
            records.append(
                {
                    "bbox": mask.box_xyxy,
                    "cat": _CATEGORY_INDEX,
                    "segment_id": segment_id,
                    "img_name": image.name,
                    # Only the trainer of the Pseudo-RIS authors reads this key.
                    "img_id": image.number,
                    "sentences": sentences,
                    "sentences_num": len(said),
                }
            )
    job.check(_read_folders(destination, anns, masks), destination.uri(anns))
    num_masks = job.written.num_masks
    return job.report(
        {"images": job.num_images, f"records of {split}": num_masks, "expressions": job.written.num_texts},
        {"images": job.num_images, f"records of {split}": 1, "masks": num_masks},
        notes=[
            *_length_notes(dataset, split, num_masks),
            f"Then, in the trainer's environment: python tools/folder2lmdb.py -j {anns} -i {_IMAGES_FOLDER}/ "
            f"-m {masks} -o lmdb/{dataset}",
            "CRIS as published cannot read what that tool writes: in its utils/dataset.py add `import pickle`, and "
            "let loads_pyarrow(buf) return pickle.loads(buf). ETRIS with pyarrow 11 needs no change.",
        ],
        checked="segment ids are unique; every mask file exists",
        dataset=dataset,
    )


_CRIS_SUMMARY: Final = "anns JSON and mask PNGs, from which folder2lmdb of CRIS and ETRIS makes an LMDB"
CRIS: Final = ExportFormat("cris", _CRIS_SUMMARY, _write_folders, _TAKES, _READS)


def _new_masks(job: ExportJob) -> Iterator[tuple[ExportImage, ExportMask, Sequence[ExportExpression], int, bytes]]:
    """Yield each mask with its image, expressions, segment id and PNG, and count it as written."""
    for image in job.images():
        for mask, said in image.masks_with_texts():
            png, counts = mask_png(mask)
            job.add(Content.of_mask(image.name, image.size, counts, [each.text for each in said]))
            yield image, mask, said, _FIRST_SEGMENT_ID + mask.number - 1, png


def _length_notes(dataset: str, split: str, num_records: int) -> list[str]:
    """Return what a user must set in the trainer, which reads the number of records from a table in its code."""
    table = f"info[{dataset!r}][{split!r}]"
    length = (
        f"Before training, set the number of records in the trainer's utils/dataset.py: {table} = {num_records}. A "
        "higher number ends in an IndexError. A lower number hides records."
    )
    added = f"Add info[{dataset!r}] = {{{split!r}: {num_records}}}."
    unknown = f"The trainer's table does not have {dataset!r} (KeyError). {added}"
    return [length] if dataset in _KNOWN_DATASETS else [length, unknown]


def _read_folders(destination: RunLocation, anns: str, masks: str) -> Iterator[Content]:
    segment_id, where = -1, destination.uri(anns)
    paths = (f"{masks}/{record['segment_id']}.png" for record in read_records(destination, anns))
    for record, (path, data) in zip(read_records(destination, anns), read_ahead(destination, paths), strict=True):
        texts = [each["sent"] for each in record["sentences"]]
        if record["segment_id"] <= segment_id or record["sentences_num"] != len(texts) or not texts:
            raise broken(where, f"segment {record['segment_id']}")
        segment_id = record["segment_id"]
        yield Content.of_mask(record["img_name"], *counts_of_png(data, destination.uri(path)), texts)


# The Python of every trainer reads this protocol, which came with Python 3.4.
_PICKLE_PROTOCOL: Final = 4
_KEYS: Final = b"__keys__"
_LENGTH: Final = b"__len__"
# An LMDB file has at most this many bytes, as in the trainers' own writer. The size reserves no disk space.
_MAP_BYTES: Final = 2**41
# A transaction is committed when it holds this many bytes in memory.
_COMMIT_BYTES: Final = 64 * 2**20
# In this split the trainers take masks only from the LMDB.
_TRAIN: Final = "train"


def _write_lmdb(job: ExportJob) -> ExportReport:
    """Write the file on this disk and read it back; then compare the one at the destination byte by byte."""
    dataset, split = job.names(_KNOWN_DATASETS[0])
    destination, path, masks = job.destination, f"lmdb/{dataset}/{split}.lmdb", f"masks/{dataset}"
    job.claim(f"lmdb/{dataset}", masks, dataset=dataset)

    def records(files: ManyFiles) -> Iterator[dict[str, Any]]:
        for image, _, said, segment_id, png in _new_masks(job):
            if split != _TRAIN:
                files.write(masks, f"{segment_id}.png", png)
            # The trainers expect the whole image in each record: one with twenty masks is stored twenty times.
            yield {
                "img": image.data,
                "mask": png,
                "cat": _CATEGORY_INDEX,
                "seg_id": segment_id,
                "img_name": image.name,
                "img_id": image.number,
                "num_sents": len(said),
                "sents": [each.text for each in said],
            }

    with job.files() as files, job.new_file(path) as local:
        _fill(local, records(files))
        job.check(_read_records(local, destination.uri(path)), destination.uri(path))
    with destination.open_input(path) as file:
        digest = file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a BinaryIO serves
    if digest != job.single_files[path]:
        raise TransientError(
            f"{destination.uri(path)} differs from the file that was sent. Run the same command again."
        )
    num_records = job.written.num_masks
    report = job.report(
        {f"records of {split}": num_records, "expressions": job.written.num_texts},
        {f"records of {split}": 1, **({"masks": job.num_files} if job.num_files else {})},
        notes=[
            *_length_notes(dataset, split, num_records),
            "Values are pickles. In the trainer's utils/dataset.py add `import pickle`, and let loads_pyarrow(buf) "
            "return pickle.loads(buf).",
        ],
        checked="__len__, __keys__ and the records agree; segment ids are unique",
        dataset=dataset,
    )
    return replace(report, rows={"images": job.num_images, **report.rows})


_LMDB_SUMMARY: Final = "the LMDB of CRIS and ETRIS, with pickles: their reader needs two lines changed"
LMDB: Final = ExportFormat("lmdb", _LMDB_SUMMARY, _write_lmdb, _TAKES, _READS, "lmdb")


def _fill(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records of plain values to a new LMDB file of this disk, then their keys and their number."""
    import lmdb

    # Locks and syncs are off, because one process writes, and an unfinished file is of no use.
    options: dict[str, Any] = {"subdir": False, "map_size": _MAP_BYTES, "lock": False, "sync": False, "metasync": False}
    num_records = pending_bytes = 0
    try:
        with lmdb.open(str(path), **options) as environment:
            transaction = environment.begin(write=True)
            for record in records:
                value = pickle.dumps(record, protocol=_PICKLE_PROTOCOL)
                transaction.put(b"%d" % num_records, value)
                num_records, pending_bytes = num_records + 1, pending_bytes + len(value)
                if pending_bytes >= _COMMIT_BYTES:
                    transaction.commit()
                    transaction, pending_bytes = environment.begin(write=True), 0
            for key, found in ((_KEYS, [b"%d" % number for number in range(num_records)]), (_LENGTH, num_records)):
                transaction.put(key, pickle.dumps(found, protocol=_PICKLE_PROTOCOL))
            transaction.commit()
            environment.sync(True)
    except lmdb.Error as error:
        raise ConfigError(
            f"An LMDB cannot be written in {path.parent}: {error}. Free space, or choose another disk."
        ) from error


def _read_records(path: Path, name: str) -> Iterator[Content]:
    """Read a file of this disk, opened as the trainers open it; `name` is for errors."""
    import lmdb

    options: dict[str, Any] = {"subdir": False, "readonly": True, "lock": False, "readahead": False}
    with lmdb.open(str(path), map_size=_MAP_BYTES, **options) as environment, environment.begin() as transaction:
        length, keys = (_loads(transaction.get(key), name) for key in (_LENGTH, _KEYS))
        if type(length) is not int or keys != [str(number).encode("ascii") for number in range(length)]:
            raise broken(name, "__len__ and __keys__ do not agree")
        if transaction.stat()["entries"] != length + 2:
            raise broken(name, f"__len__ is {length}, but the number of records differs")
        seg_id = -1
        for number, key in enumerate(keys):
            record = _loads(transaction.get(key), name)
            has_texts = record["num_sents"] == len(record["sents"]) > 0 and all(record["sents"])
            if not has_texts or type(record["seg_id"]) is not int or record["seg_id"] <= seg_id or not record["img"]:
                raise broken(name, f"record {number}")
            seg_id = record["seg_id"]
            read = counts_of_png(record["mask"], f"{name}, record {number}")
            yield Content.of_mask(record["img_name"], *read, record["sents"])


def _loads(value: bytes | None, name: str) -> Any:
    try:
        return load_plain(value or b"", name, with_bytes=True)
    except ConfigError as error:
        raise TransientError(f"{error}. Run the same command again.") from error
