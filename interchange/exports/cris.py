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

import io
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import mask_png
from pseudoris.interchange.exports.record import Content, ExportExpression, ExportImage, ExportMask, broken
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.interchange.untrusted_pickle import PlainUnpickler
from pseudoris.primitives.errors import ConfigError

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
    """Write images, masks and records as they come."""
    dataset, splits = job.names(_KNOWN_DATASETS[0])
    masks = f"masks/{dataset}"
    job.claim(f"anns/{dataset}", masks, _IMAGES_FOLDER, dataset=dataset)
    paths = {split: f"anns/{dataset}/{split}.json" for split in splits}
    num_records = {split: _write_records(job, path, masks, split) for split, path in paths.items()}
    return job.report(
        {"images": job.num_images, **_by_split(num_records), "expressions": job.written.num_texts},
        {"images": job.num_images, **_by_split(dict.fromkeys(splits, 1)), "masks": job.written.num_masks},
        notes=[
            *_length_notes(dataset, num_records),
            *(
                f"Then, in the trainer's environment: python tools/folder2lmdb.py -j {path} -i {_IMAGES_FOLDER}/ "
                f"-m {masks} -o lmdb/{dataset}"
                for path in paths.values()
            ),
            "CRIS as published cannot read what that tool writes: in its utils/dataset.py add `import pickle`, and "
            "let loads_pyarrow(buf) return pickle.loads(buf). ETRIS with pyarrow 11 needs no change.",
        ],
        checked="every PNG decodes to its mask",
        dataset=dataset,
    )


def _by_split(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"records of {split}": num for split, num in counts.items()}


def _write_records(job: ExportJob, path: str, masks: str, split: str) -> int:
    """Write the records of a split, and their images and masks; return how many there are."""
    with job.records(path) as records:
        for image, mask, said, segment_id, png, due in _new_masks(job.images(_IMAGES_FOLDER, split)):
            job.files.write(masks, f"{segment_id}.png", png)
            sentences = [{"idx": index, "sent_id": each.number, "sent": each.text} for index, each in enumerate(said)]
            row = records.append(
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
            texts = [each["sent"] for each in row["sentences"]]
            job.add(due, Content.of_mask(row["img_name"], image.size, due.masks[0], texts))
    return records.num_elements


_CRIS_SUMMARY: Final = "anns JSON and mask PNGs, from which folder2lmdb of CRIS and ETRIS makes an LMDB"
CRIS: Final = ExportFormat("cris", _CRIS_SUMMARY, _write_folders, _TAKES, _READS)


def _new_masks(
    images: Iterable[ExportImage],
) -> Iterator[tuple[ExportImage, ExportMask, Sequence[ExportExpression], int, bytes, Content]]:
    """Yield each mask with its image, expressions, segment id, PNG, and what its record must say."""
    for image in images:
        for mask, said in image.masks_with_texts():
            png, counts = mask_png(mask)
            due = Content.of_mask(image.name, image.size, counts, [each.text for each in said])
            yield image, mask, said, _FIRST_SEGMENT_ID + mask.number - 1, png, due


def _length_notes(dataset: str, num_records: Mapping[str, int]) -> list[str]:
    """Return what a user must set in the trainer, which reads the number of records from a table in its code."""
    lengths = ", ".join(f"info[{dataset!r}][{split!r}] = {num}" for split, num in num_records.items())
    length = (
        f"Before training, set the number of records in the trainer's utils/dataset.py: {lengths}. A "
        "higher number ends in an IndexError. A lower number hides records."
    )
    added = f"Add info[{dataset!r}] = {dict(num_records)}."
    unknown = f"The trainer's table does not have {dataset!r} (KeyError). {added}"
    return [length] if dataset in _KNOWN_DATASETS else [length, unknown]


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
    dataset, splits = job.names(_KNOWN_DATASETS[0])
    masks = f"masks/{dataset}"
    job.claim(f"lmdb/{dataset}", masks, dataset=dataset)

    def values(path: str, split: str) -> Iterator[bytes]:
        for image, _, said, segment_id, png, due in _new_masks(job.images(split=split)):
            if split != _TRAIN:
                job.files.write(masks, f"{segment_id}.png", png)
            # The trainers expect the whole image in each record: one with twenty masks is stored twenty times.
            record = {
                "img": image.data,
                "mask": png,
                "cat": _CATEGORY_INDEX,
                "seg_id": segment_id,
                "img_name": image.name,
                "img_id": image.number,
                "num_sents": len(said),
                "sents": [each.text for each in said],
            }
            value = pickle.dumps(record, protocol=_PICKLE_PROTOCOL)
            found = PlainUnpickler(io.BytesIO(value)).load()
            if (found["img"], found["mask"]) != (image.data, png):
                raise broken(job.destination.uri(path), f"segment {segment_id} has another image or mask")
            job.add(due, Content.of_mask(found["img_name"], image.size, due.masks[0], found["sents"]))
            yield value

    num_records = {}
    for split in splits:
        with job.new_file(path := f"lmdb/{dataset}/{split}.lmdb") as local:
            num_records[split] = _fill(local, values(path, split))
    report = job.report(
        {**_by_split(num_records), "expressions": job.written.num_texts},
        _by_split(dict.fromkeys(splits, 1)) | ({"masks": job.files.num_files} if job.files.num_files else {}),
        notes=[
            *_length_notes(dataset, num_records),
            "Values are pickles. In the trainer's utils/dataset.py add `import pickle`, and let loads_pyarrow(buf) "
            "return pickle.loads(buf).",
        ],
        checked="every PNG decodes to its mask",
        dataset=dataset,
    )
    return replace(report, rows={"images": job.num_images, **report.rows})


_LMDB_SUMMARY: Final = "the LMDB of CRIS and ETRIS, with pickles: their reader needs two lines changed"
LMDB: Final = ExportFormat("lmdb", _LMDB_SUMMARY, _write_lmdb, _TAKES, _READS, "lmdb")


def _fill(path: Path, values: Iterable[bytes]) -> int:
    """Write the pickles of records to a new LMDB file of this disk, then their keys and their number; return that."""
    import lmdb

    # Locks and syncs are off, because one process writes, and an unfinished file is of no use.
    options: dict[str, Any] = {"subdir": False, "map_size": _MAP_BYTES, "lock": False, "sync": False, "metasync": False}
    num_records = pending_bytes = 0
    try:
        with lmdb.open(str(path), **options) as environment:
            transaction = environment.begin(write=True)
            for value in values:
                transaction.put(b"%d" % num_records, value)
                num_records, pending_bytes = num_records + 1, pending_bytes + len(value)
                if pending_bytes >= _COMMIT_BYTES:
                    transaction.commit()
                    transaction, pending_bytes = environment.begin(write=True), 0
            for key, found in ((_KEYS, [b"%d" % number for number in range(num_records)]), (_LENGTH, num_records)):
                transaction.put(key, pickle.dumps(found, protocol=_PICKLE_PROTOCOL))
            transaction.commit()
            environment.sync(True)
            return num_records
    except lmdb.Error as error:
        raise ConfigError(
            f"An LMDB cannot be written in {path.parent}: {error}. Free space, or choose another disk."
        ) from error
