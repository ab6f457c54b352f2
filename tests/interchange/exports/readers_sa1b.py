"""A reader of SA-1B's layout: every JSON of a folder, the image beside it by `file_name`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as coco


def read_sa1b(root: Path) -> Iterator[tuple[Path, dict, list[tuple[dict, np.ndarray]]]]:
    """Yield path and record of each image, and its annotations with their masks (H, W) bool."""
    for path in sorted(root.glob("sa_*/*.json"), key=lambda path: int(path.stem.partition("_")[2])):
        tree = json.loads(path.read_text("utf-8"))
        annotations = [(each, coco.decode(each["segmentation"]).astype(bool)) for each in tree["annotations"]]
        yield path.parent / tree["image"]["file_name"], tree["image"], annotations
