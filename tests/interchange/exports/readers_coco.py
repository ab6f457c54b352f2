"""Readers of COCO and of SA-1B: pycocotools itself, what detectron2's loader does, and every JSON of a folder."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO


def open_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_instances(root: Path, split: str = "train") -> Iterator[tuple[dict, dict, np.ndarray, list[str]]]:
    """Yield image, annotation, mask (H, W) bool and captions, by the API of pycocotools alone."""
    instances = open_coco(root / "annotations" / f"instances_{split}.json")
    captions = open_coco(root / "annotations" / f"captions_{split}.json")
    for image_id in instances.getImgIds():
        (image,) = instances.loadImgs(image_id)
        of_image = captions.loadAnns(captions.getAnnIds(imgIds=[image_id]))
        for annotation in instances.loadAnns(instances.getAnnIds(imgIds=[image_id], iscrowd=False)):
            texts = [each["caption"] for each in of_image if each["instance_id"] == annotation["id"]]
            yield image, annotation, instances.annToMask(annotation).astype(bool), texts


def detectron_instances(coco: COCO, image_id: int) -> list[np.ndarray]:
    """Return the masks that detectron2 trains on: its loader's assertions, then its mapper's, for `bitmask`."""
    masks = []
    for annotation in coco.imgToAnns[image_id]:
        assert annotation["image_id"] == image_id
        assert annotation.get("ignore", 0) == 0
        segmentation = annotation["segmentation"]
        # Its loader turns lists of counts into an encoding and drops polygons of fewer than six numbers.
        assert isinstance(segmentation, dict)
        assert not isinstance(segmentation["counts"], list)
        if annotation.get("iscrowd", 0) == 0:
            masks.append(coco_mask.decode(segmentation).astype(bool))
    return masks


def read_sa1b(root: Path) -> Iterator[tuple[Path, dict, list[tuple[dict, np.ndarray]]]]:
    """Yield path and record of each image, and its annotations with their masks (H, W) bool."""
    for path in sorted(root.glob("sa_*/*.json"), key=lambda path: int(path.stem.partition("_")[2])):
        tree = json.loads(path.read_text("utf-8"))
        annotations = [(each, coco_mask.decode(each["segmentation"]).astype(bool)) for each in tree["annotations"]]
        yield path.parent / tree["image"]["file_name"], tree["image"], annotations
