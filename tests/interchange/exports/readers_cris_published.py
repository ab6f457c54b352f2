"""What `utils/dataset.py` of CRIS and ETRIS does, as the description of their formats has it: it imports no pickle.

A test runs the lines of docs/guides/exports.md in a copy of this module, as a user pastes them into the trainer's.
"""

from __future__ import annotations

import io
import os
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
from PIL import Image

info = {
    "refcoco": {"train": 42404, "val": 3811},
    "refcoco+": {"train": 42278, "val": 3805},
    "refcocog_u": {"train": 42226, "val": 2573, "test": 5023},
    "refcocog_g": {"train": 44822, "val": 5000},
}


def loads_pyarrow(buf: bytes) -> Any:
    return pa.deserialize(buf)


class RefDataset:
    """Records by number; the length is the table's until the file is opened, which happens with the first record."""

    def __init__(self, lmdb_dir: str, mask_dir: str, dataset: str, split: str, mode: str) -> None:
        self.lmdb_dir, self.mask_dir, self.mode = lmdb_dir, mask_dir, mode
        self.length = info[dataset][split]
        self.env = None

    def _init_db(self) -> None:
        self.env = lmdb.open(
            self.lmdb_dir,
            subdir=os.path.isdir(self.lmdb_dir),  # noqa: PTH112, as theirs
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        )
        with self.env.begin(write=False) as transaction:
            self.length = loads_pyarrow(transaction.get(b"__len__"))
            self.keys = loads_pyarrow(transaction.get(b"__keys__"))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, str, np.ndarray]:
        if self.env is None:
            self._init_db()
        with self.env.begin(write=False) as transaction:
            ref = loads_pyarrow(transaction.get(self.keys[index]))
        image = np.asarray(Image.open(io.BytesIO(ref["img"])).convert("RGB"))
        chosen = np.random.choice(ref["num_sents"])
        if self.mode == "train":
            mask = np.asarray(Image.open(io.BytesIO(ref["mask"])))
        else:
            chosen, mask = 0, np.asarray(Image.open(f"{self.mask_dir}/{ref['seg_id']}.png"))
        return image, ref["sents"][chosen], mask / 255.0
