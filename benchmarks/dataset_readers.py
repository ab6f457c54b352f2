"""Baselines of the dataset's benchmark: fast plain readers of what CRIS and ETRIS train from.

Their own use cv2; torchvision decodes with the same libjpeg-turbo and libpng and gives tensors in the order wanted,
which saves them a copy and a change of colour order.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import lmdb
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_jpeg, decode_png, read_file

from pseudoris.training.dataset.samples import RisSample
from pseudoris.workers.counter_rng import draw_texts


class CrisFiles(Dataset[RisSample]):
    """JPEG files, a PNG a mask, and a JSON list of refs: one item a ref, one of its sentences drawn."""

    def __init__(self, cris: Path) -> None:
        """Read the list."""
        self._images, self._masks = cris / "images/train2014", cris / "masks/run"
        self._refs = json.loads((cris / "anns/run/train.json").read_text(encoding="utf-8"))
        self.bytes_read = 0

    def __len__(self) -> int:
        """Return the number of refs."""
        return len(self._refs)

    def __getitem__(self, index: int) -> RisSample:
        """Return the same sample as the run's dataset gives for that mask."""
        ref = self._refs[index]
        image, mask = self._images / ref["img_name"], self._masks / f"{ref['segment_id']}.png"
        self.bytes_read += image.stat().st_size + mask.stat().st_size
        texts = [sentence["sent"] for sentence in ref["sentences"]]
        return _sample(ref["mask_id"], read_file(os.fspath(image)), read_file(os.fspath(mask)), texts)


class CrisLmdb(Dataset[RisSample]):
    """An LMDB of pickled records, opened as CRIS opens it, in the process that reads."""

    def __init__(self, cris: Path) -> None:
        """Read its length."""
        self._path = cris / "lmdb/run/train.lmdb"
        self._environment: Any = None
        self.bytes_read = 0
        with self._open().begin() as transaction:
            self._length = pickle.loads(transaction.get(b"__len__"))
        self._environment = None

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self._length)

    def __getitem__(self, index: int) -> RisSample:
        """Return the same sample as the run's dataset gives for that mask."""
        if self._environment is None:
            self._environment = self._open()
        with self._environment.begin(buffers=True) as transaction:
            value = transaction.get(str(index).encode())
            self.bytes_read += len(value)
            record = pickle.loads(value)
        return _sample(record["mask_id"], _tensor(record["img"]), _tensor(record["mask"]), record["sents"])

    def _open(self) -> Any:
        return lmdb.open(os.fspath(self._path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)


def _sample(mask_id: str, jpeg: Tensor, png: Tensor, texts: list[str]) -> RisSample:
    (drawn,) = draw_texts(texts, 1, seed=0, epoch=0, mask_id=mask_id)
    return RisSample(
        mask_id=mask_id,
        image=decode_jpeg(jpeg, mode=ImageReadMode.RGB),
        mask=decode_png(png, mode=ImageReadMode.GRAY)[0] == 255,
        expressions=[texts[drawn]],
    )


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
