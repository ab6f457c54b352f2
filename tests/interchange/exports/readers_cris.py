"""Readers of what CRIS and ETRIS keep on disk, written from the description of the formats alone: nothing of ours.

`folder2records` is what their folder2lmdb makes of annotations, images and masks; `CrisDataset` is what their dataset
does with an LMDB.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image


def folder2records(root: Path, dataset: str, split: str) -> list[dict]:
    """Return a record for each annotation: encoded image, encoded mask, names, texts."""
    records = []
    for item in json.loads((root / "anns" / dataset / f"{split}.json").read_text()):
        image = (root / "images/train2014" / item["img_name"]).read_bytes()
        mask = (root / "masks" / dataset / f"{item['segment_id']}.png").read_bytes()
        records.append(
            {
                "img": image,
                "mask": mask,
                "cat": item["cat"],
                "seg_id": item["segment_id"],
                "img_name": item["img_name"],
                "num_sents": item["sentences_num"],
                "sents": [sentence["sent"] for sentence in item["sentences"]],
            }
        )
    return records


def folder2lmdb(root: Path, dataset: str, split: str) -> Path:
    """Write the records as CRIS's published tool does, with pickles of protocol 5, and return the file's path."""
    records = folder2records(root, dataset, split)
    path = root / "lmdb" / dataset / f"{split}.lmdb"
    path.parent.mkdir(parents=True)
    values = {str(number).encode(): record for number, record in enumerate(records)}
    with lmdb.open(str(path), subdir=False, map_size=2**30) as env, env.begin(write=True) as transaction:
        for key, value in {**values, b"__keys__": [*values], b"__len__": len(records)}.items():
            transaction.put(key, pickle.dumps(value, protocol=5))
    return path


class CrisDataset:
    """An LMDB opened as the trainers open it."""

    def __init__(self, root: Path, dataset: str = "refcoco", split: str = "train"):
        path = root / "lmdb" / dataset / f"{split}.lmdb"
        self.env = lmdb.open(
            str(path), subdir=path.is_dir(), max_readers=1, readonly=True, lock=False, readahead=False, meminit=False
        )
        self.length, self.keys = self._read(b"__len__"), self._read(b"__keys__")

    def _read(self, key: bytes):
        with self.env.begin(write=False) as transaction:
            return pickle.loads(transaction.get(key))

    def __len__(self):
        return self.length

    def __getitem__(self, index: int) -> dict:
        return self._read(self.keys[index])

    def close(self):
        self.env.close()


def decode_record(record: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return image (H, W, 3) uint8, mask (H, W) as float in 0 ... 1, texts: the mask is divided by 255."""
    image = np.asarray(Image.open(io.BytesIO(record["img"])).convert("RGB"))
    mask = np.asarray(Image.open(io.BytesIO(record["mask"]))) / 255.0
    assert record["num_sents"] >= 1
    return image, mask, record["sents"][: record["num_sents"]]
