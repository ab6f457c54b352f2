"""What the independent readers find in an export, in one form for all formats: the traps are asked of each alike."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.training.exports.readers_cris import CrisDataset, decode_record, folder2records
from tests.training.exports.readers_refer import LavtDataset


@dataclass(frozen=True)
class LoadedMask:
    """A mask as a reader of the format gives it.

    Attributes:
        file_name: Of its image, as the format names it.
        image: Encoded bytes, as the reader finds them by that name.
        mask: (H, W) bool.
        texts: Its expressions in the format's order.
        mask_number: The format's id of it.
        image_number: The format's id of its image; None where it has none.
    """

    file_name: str
    image: bytes
    mask: np.ndarray
    texts: tuple[str, ...]
    mask_number: int | str
    image_number: int | str | None = None

    @property
    def image_id(self) -> str:
        """Of the run: what stands between the last underscore of the name and its suffix."""
        return Path(self.file_name).stem.rpartition("_")[2]

    @property
    def pixels(self) -> np.ndarray:
        """The image as Pillow opens it, which turns nothing upright."""
        with Image.open(io.BytesIO(self.image)) as image:
            return np.asarray(image.convert("RGB"))


Load = Callable[[Path], list[LoadedMask]]


def load_refer(root: Path, split: str = "train") -> list[LoadedMask]:
    dataset = LavtDataset(root, split)
    loaded = []
    for at in range(len(dataset)):
        path, mask, texts = dataset[at]
        ref = dataset.refer.refs[dataset.ref_ids[at]]
        loaded.append(LoadedMask(path.name, path.read_bytes(), mask, tuple(texts), ref["ref_id"], ref["image_id"]))
    return loaded


def _loaded(record: dict) -> LoadedMask:
    _, mask, texts = decode_record(record)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    number = record.get("img_id")
    return LoadedMask(record["img_name"], record["img"], mask == 1, tuple(texts), record["seg_id"], number)


def load_cris(root: Path, split: str = "train") -> list[LoadedMask]:
    return [_loaded(record) for record in folder2records(root, "refcoco", split)]


def load_lmdb(root: Path, split: str = "train") -> list[LoadedMask]:
    # As if the user had put the printed number into the trainer's table.
    dataset = CrisDataset(root, "refcoco", split, {"refcoco": {split: 0}}, loads=pickle.loads)
    dataset.length = dataset.stored_length
    try:
        return [_loaded(dataset[at]) for at in range(len(dataset))]
    finally:
        dataset.close()


# By format; a format whose reader gives images, masks and texts joins here, and is asked about every trap below.
LOADERS: dict[str, Load] = {"refer": load_refer, "cris": load_cris, "lmdb": load_lmdb}
