"""What the independent readers find in an export, in one form for all formats: the traps are asked of each alike."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.interchange.exports.readers_coco import read_instances
from tests.interchange.exports.readers_cris import CrisDataset, decode_record, folder2records
from tests.interchange.exports.readers_huggingface import open_folder
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset
from tests.interchange.exports.readers_refer import LavtDataset
from tests.interchange.exports.readers_sa1b import read_sa1b
from tests.interchange.exports.readers_webdataset import read_samples


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
        source_id: The run's id of its image, where the name of the file does not hold it.
    """

    file_name: str
    image: bytes
    mask: np.ndarray
    texts: tuple[str, ...]
    mask_number: int | str
    image_number: int | str | None = None
    source_id: str | None = None

    @property
    def image_id(self) -> str:
        """Of the run: by default what stands between the last underscore of the name and its suffix."""
        return self.source_id or Path(self.file_name).stem.rpartition("_")[2]

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
    # Pseudo-RIS' loader reads `img_id` off the list; the trainers' own tool drops it from its records.
    numbers = [item["img_id"] for item in json.loads((root / "anns" / "refcoco" / f"{split}.json").read_text())]
    records = folder2records(root, "refcoco", split)
    return [_loaded({**record, "img_id": number}) for record, number in zip(records, numbers, strict=True)]


def load_lmdb(root: Path, split: str = "train") -> list[LoadedMask]:
    # As if the user had put the printed number into the trainer's table.
    dataset = CrisDataset(root, "refcoco", split, {"refcoco": {split: 0}}, loads=pickle.loads)
    dataset.length = dataset.stored_length
    try:
        return [_loaded(dataset[at]) for at in range(len(dataset))]
    finally:
        dataset.close()


def load_coco(root: Path) -> list[LoadedMask]:
    return [
        LoadedMask(
            image["file_name"],
            (root / "images" / image["file_name"]).read_bytes(),
            mask,
            tuple(texts),
            annotation["id"],
            image["id"],
        )
        for image, annotation, mask, texts in read_instances(root)
    ]


def load_sa1b(root: Path) -> list[LoadedMask]:
    return [
        LoadedMask(
            path.name,
            path.read_bytes(),
            mask,
            tuple(annotation["expressions"]),
            annotation["id"],
            image["image_id"],
            image["source_image_id"],
        )
        for path, image, annotations in read_sa1b(root)
        for annotation, mask in annotations
    ]


def load_webdataset(root: Path) -> list[LoadedMask]:
    loaded = []
    for sample in read_samples(root):
        suffix = "jpg" if "jpg" in sample else "png"
        for mask in json.loads(sample["json"])["masks"]:
            pixels = coco.decode(mask["segmentation"]).astype(bool)
            texts = tuple(each["text"] for each in mask["expressions"])
            name = f"{sample['__key__']}.{suffix}"
            loaded.append(LoadedMask(name, sample[suffix], pixels, texts, mask["mask_id"]))
    return loaded


def load_huggingface(root: Path) -> list[LoadedMask]:
    loaded = []
    for row in open_folder(root):
        encoded = io.BytesIO()
        row["image"].save(encoded, "PNG")
        for mask in row["masks"]:
            pixels = np.asarray(mask["mask"])
            assert set(np.unique(pixels)) <= {0, 255}
            texts = tuple(mask["expressions"])
            name = f"{row['image_id']}.png"
            loaded.append(LoadedMask(name, encoded.getvalue(), pixels == 255, texts, mask["mask_id"]))
    return loaded


def load_pseudo_ris(root: Path) -> list[LoadedMask]:
    """Return each caption once, kept or not; how often it stands there is asked elsewhere."""
    dataset = PseudoDataset(root)
    rows = [dataset[at] for at in range(len(dataset))]
    assert all(set(np.unique(row.mask)) <= {0.0, 1.0} for row in rows)
    return [
        LoadedMask(
            row.img_name,
            row.image.read_bytes(),
            row.mask == 1,
            tuple(dict.fromkeys(row.captions)),
            f"{row.img_id}/{row.seg_id}",
            row.img_id,
        )
        for row in rows
    ]


# Formats of masks first of all: a mask without an expression is in them too.
WITH_BARE_MASKS = frozenset({"coco", "sa1b"})
# Formats that hold every candidate, kept or not.
WITH_CANDIDATES = frozenset({"pseudo-ris-csv"})

# By format; a format whose reader gives images, masks and texts joins here, and is asked about every trap below.
LOADERS: dict[str, Load] = {
    "refer": load_refer,
    "cris": load_cris,
    "lmdb": load_lmdb,
    "coco": load_coco,
    "sa1b": load_sa1b,
    "webdataset": load_webdataset,
    "hf": load_huggingface,
    "pseudo-ris-csv": load_pseudo_ris,
}
