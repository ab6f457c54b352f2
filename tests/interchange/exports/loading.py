"""What the independent readers find in an export, in one form for all formats: the traps are asked of each alike."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.interchange.exports.readers_coco import read_instances, read_sa1b
from tests.interchange.exports.readers_cris import CrisDataset, decode_record, folder2records
from tests.interchange.exports.readers_huggingface import open_folder
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset
from tests.interchange.exports.readers_refer import LavtDataset
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


Load = Callable[[Path], Iterator[LoadedMask]]


def load_refer(root: Path) -> Iterator[LoadedMask]:
    dataset = LavtDataset(root, "train")
    for at in range(len(dataset)):
        path, mask, texts = dataset[at]
        ref = dataset.refer.refs[dataset.ref_ids[at]]
        yield LoadedMask(path.name, path.read_bytes(), mask, tuple(texts), ref["ref_id"], ref["image_id"])


def _loaded(record: dict) -> LoadedMask:
    _, mask, texts = decode_record(record)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    number = record.get("img_id")
    return LoadedMask(record["img_name"], record["img"], mask == 1, tuple(texts), record["seg_id"], number)


def load_cris(root: Path) -> Iterator[LoadedMask]:
    # Pseudo-RIS' loader reads `img_id` off the list; the trainers' own tool drops it from its records.
    numbers = [item["img_id"] for item in json.loads((root / "anns/refcoco/train.json").read_text())]
    records = folder2records(root, "refcoco", "train")
    yield from (_loaded({**record, "img_id": number}) for record, number in zip(records, numbers, strict=True))


def load_lmdb(root: Path) -> Iterator[LoadedMask]:
    with closing(CrisDataset(root)) as dataset:
        yield from (_loaded(dataset[at]) for at in range(len(dataset)))


def load_coco(root: Path) -> Iterator[LoadedMask]:
    for image, annotation, mask, texts in read_instances(root):
        name = image["file_name"]
        data = (root / "images" / name).read_bytes()
        yield LoadedMask(name, data, mask, tuple(texts), annotation["id"], image["id"])


def load_sa1b(root: Path) -> Iterator[LoadedMask]:
    for path, image, found in read_sa1b(root):
        numbers = image["image_id"], image["source_image_id"]
        for annotation, mask in found:
            texts = tuple(annotation["expressions"])
            yield LoadedMask(path.name, path.read_bytes(), mask, texts, annotation["id"], *numbers)


def load_webdataset(root: Path) -> Iterator[LoadedMask]:
    for sample in read_samples(root):
        suffix = "jpg" if "jpg" in sample else "png"
        for mask in json.loads(sample["json"])["masks"]:
            pixels = coco.decode(mask["segmentation"]).astype(bool)
            texts = tuple(each["text"] for each in mask["expressions"])
            name = f"{sample['__key__']}.{suffix}"
            yield LoadedMask(name, sample[suffix], pixels, texts, mask["mask_id"])


def load_huggingface(root: Path) -> Iterator[LoadedMask]:
    for row in open_folder(root):
        encoded = io.BytesIO()
        row["image"].save(encoded, "PNG")
        for mask in row["masks"]:
            pixels = np.asarray(mask["mask"])
            assert set(np.unique(pixels)) <= {0, 255}
            texts = tuple(mask["expressions"])
            name = f"{row['image_id']}.png"
            yield LoadedMask(name, encoded.getvalue(), pixels == 255, texts, mask["mask_id"])


def load_pseudo_ris(root: Path) -> Iterator[LoadedMask]:
    """Yield each caption once, kept or not; how often it stands there is asked elsewhere."""
    dataset = PseudoDataset(root)
    for at in range(len(dataset)):
        row = dataset[at]
        assert set(np.unique(row.mask)) <= {0.0, 1.0}
        texts, number = tuple(dict.fromkeys(row.captions)), f"{row.img_id}/{row.seg_id}"
        yield LoadedMask(row.img_name, row.image.read_bytes(), row.mask == 1, texts, number, row.img_id)


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
