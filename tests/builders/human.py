"""Human annotation for tests, written by hand in the REFER layout and as COCO JSON, on small images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from pseudoris.interchange.imports.human_annotation import HumanImage, HumanMask
from tests.builders.crops import runs_of
from tests.builders.images import png
from tests.builders.sources import write_files

HEIGHT, WIDTH = 24, 32


def box_mask(box: Sequence[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Return a box [x0, y0, x1, y1] as a mask (H, W) bool."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(box: Sequence[int]) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def rle(mask: np.ndarray) -> dict[str, Any]:
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def runs(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": runs_of(mask).tolist()}


def texts_of(image: HumanImage, mask: HumanMask) -> tuple[str, ...]:
    """Return what is said of one mask of an image alone."""
    return tuple(each.text for each in image.phrases if each.targets == (mask.index,))


def image_row(number: int, file_name: str, **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH, **changes}


def object_row(number: int, image: int, box: Sequence[int] = (4, 3, 12, 9), **changes: Any) -> dict[str, Any]:
    """Return a row of `annotations`, a polygon."""
    x0, y0, x1, y1 = box
    fields = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "category_id": 1}
    return {"id": number, "image_id": image, "segmentation": [polygon(box)], **fields, **changes}


def reference(number: int, annotation: int, image: int, *sents: str, split: str = "train", **changes: Any) -> dict:
    """Return a reference as RefCOCO has it: `raw` is what was typed, `sent` its clean form."""
    sentences = [
        {"sent_id": 10 * number + n, "sent": sent, "raw": f"{sent.title()} ", "tokens": sent.split()}
        for n, sent in enumerate(sents)
    ]
    ids = {"ref_id": number, "ann_id": annotation, "image_id": image, "category_id": 1}
    named = {"file_name": f"COCO_train2014_{image}_{number}.jpg", "sent_ids": [s["sent_id"] for s in sentences]}
    return {**ids, **named, "split": split, "sentences": sentences, **changes}


def write_images(folder: Path, *names: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """Write a sound image under each name, all different, and return the folder."""
    return write_files(folder, {name: png(*size, seed=seed) for seed, name in enumerate(names)})


def document(images: Sequence[Mapping], annotations: Sequence[Mapping]) -> bytes:
    categories = [{"id": 1, "name": "object"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


def write_refer(folder: Path, images: Sequence[Mapping], annotations: Sequence[Mapping], refs: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_bytes(document(images, annotations))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    return folder


def write_small_refer(root: Path, *, num_images: int = 5) -> tuple[Path, Path]:
    """Write a sound dataset: two objects an image, the first in train, the second in val; return it and its images."""
    names = [f"train2014/{number}.png" for number in range(num_images)]
    objects = [
        object_row(2 * image + n, image, box)
        for image in range(num_images)
        for n, box in enumerate([(4, 3, 12, 9), (15, 10, 25, 20)])
    ]
    refs = [
        reference(row["id"], row["id"], row["image_id"], f"thing {row['id']}", "the one on the left", split=split)
        for row, split in zip(objects, ["train", "val"] * num_images, strict=True)
    ]
    images = write_images(root / "images", *names)
    rows = [image_row(number, name) for number, name in enumerate(names)]
    return write_refer(root / "refcoco", rows, objects, refs), images
