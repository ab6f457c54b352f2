"""The records of a REFER dataset, out of a run's images, masks and expressions; plain Python values alone.

`loadRefs` and its like ask `type(x) == int`, so a numpy number would give None there, and a pickle that holds one is
tied to a version of numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from store.annotations import AnnotatedImage, AnnotatedMask
from training.exports.coco_form import box_xywh, rle_of


def _from_one() -> Iterator[int]:
    return count(1)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Where each kind of id goes on: from 1, in the order of the plan, the run's before a human's."""

    image: Iterator[int] = field(default_factory=_from_one)
    annotation: Iterator[int] = field(default_factory=_from_one)
    ref: Iterator[int] = field(default_factory=_from_one)
    sentence: Iterator[int] = field(default_factory=_from_one)


def image_record(image_id: int, image: AnnotatedImage, file_name: str) -> dict[str, Any]:
    """Return an element of `images`."""
    return {"id": image_id, "file_name": file_name, "height": int(image.height), "width": int(image.width)}


def annotation_record(annotation_id: int, image_id: int, category_id: int, mask: AnnotatedMask) -> dict[str, Any]:
    """Return an element of `annotations`."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box_xywh(mask),
        "area": int(mask.area_px),
        # In a list: REFER looks at the first element to tell an encoding from polygons, and fails on a bare dict.
        "segmentation": [rle_of(mask)],
        "iscrowd": 0,
    }


def ref_record(
    numbers: Numbers, annotation: dict[str, Any], *, file_name: str, split: str, texts: Sequence[str]
) -> dict[str, Any]:
    """Return an element of the refs file; both `sent` and `raw` hold the text, since trainers read one or the other."""
    sentences = [
        {"sent_id": next(numbers.sentence), "sent": text, "raw": text, "tokens": text.split()} for text in texts
    ]
    return {
        "ref_id": next(numbers.ref),
        "ann_id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        "file_name": file_name,
    }


def canonical(segmentation: Any) -> str:
    """Return a mask in `instances.json` as one text, equal for equal ones."""
    return json.dumps(segmentation, sort_keys=True)
