"""COCO: masks as instances, expressions as captions.

DEST/annotations/instances_<split>.json       images, every mask, one category
DEST/annotations/captions_<split>.json        the same images, every kept expression with its mask
DEST/images/<file_name>                       the images, upright

Both JSON files are in one order. They are read back side by side, so memory holds one image's masks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby, takewhile, zip_longest
from operator import itemgetter
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport, ReadMask
from pseudoris.training.exports.image_files import CATEGORY, CATEGORY_ID, box_xywh, rle_of
from pseudoris.training.exports.output_files import (
    JsonArray,
    ManyFiles,
    RisingIds,
    broken,
    check_mask,
    check_texts,
    iter_json_arrays,
    json_arrays,
    new_file,
)
from pseudoris.training.exports.selected_rows import TextRule

_IMAGES_FOLDER: Final = "images"
_ANNOTATIONS_FOLDER: Final = "annotations"
_SPLIT: Final = re.compile(r"[A-Za-z0-9_-]+")


def _write(job: ExportJob) -> ExportReport:
    """Write images and both files an image at a time, then read the files back side by side."""
    split, destination = job.options.split, job.destination
    if not _SPLIT.fullmatch(split):
        raise ConfigError(f"--split {split!r} becomes part of file names. Use only letters, digits, _ and -.")
    job.claim(_ANNOTATIONS_FOLDER, _IMAGES_FOLDER)
    paths = [f"{_ANNOTATIONS_FOLDER}/{kind}_{split}.json" for kind in ("instances", "captions")]
    with (
        ManyFiles(destination) as files,
        new_file(destination, paths[0]) as instances_file,
        new_file(destination, paths[1]) as captions_file,
        json_arrays(instances_file, ("images", "annotations", "categories")) as instances,
        json_arrays(captions_file, ("images", "annotations")) as captions,
    ):
        _write_records(job, files, instances, captions)
    files.check()
    job.check(_read_back(destination, *paths), destination.uri(paths[0]))
    return job.report(
        {"images": job.num_images, "instances": job.written.num_masks, "captions": job.written.num_texts},
        {"images": files.num_files, "instances": 1, "captions": 1},
        files.size_bytes + job.sizes(*paths),
        notes=(
            'Masks are run-length encodings: detectron2 wants INPUT.MASK_FORMAT = "bitmask" for them.',
            "Each caption belongs to one mask: its instance_id is the id of the annotation of that mask.",
        ),
        checked=(
            "every mask decodes to its image's size, box and area; all masks and expressions equal the run's",
            "ids are unique plain ints; no caption is empty; every image file exists",
        ),
    )


# Every mask with pixels, also one without a kept expression: as instances they are just as valid.
COCO: Final = ExportFormat(
    "coco",
    "instances and captions JSON with the images: pycocotools, detectron2, mmdetection",
    reads=frozenset({"max_tokens", "split"}),
    takes=TextRule(keeps_bare_masks=True),
    writer=_write,
)


def _write_records(
    job: ExportJob, files: ManyFiles, instances: dict[str, JsonArray], captions: dict[str, JsonArray]
) -> None:
    """Write images, masks and expressions, each numbered from 1 in the order of the plan."""
    instances["categories"].append(CATEGORY)
    for image, image_file in job.images():
        files.write(_IMAGES_FOLDER, image_file.name, image_file.data)
        image_id, height, width = job.num_images, int(image.height), int(image.width)
        record = {"id": image_id, "file_name": image_file.name, "height": height, "width": width}
        instances["images"].append(record)
        captions["images"].append(record)
        for mask in image.masks:
            texts = job.add(image_file.name, mask)
            instance_id = job.written.num_masks
            instances["annotations"].append(
                {
                    "id": instance_id,
                    "image_id": image_id,
                    "category_id": CATEGORY_ID,
                    # Bare, with text for counts: COCO's own readers distinguish it from polygons because it is not a
                    # list.
                    "segmentation": rle_of(mask),
                    "area": int(mask.area_px),
                    "bbox": box_xywh(mask),
                    # 0, although COCO itself writes encodings for crowds alone: pycocotools goes by the segmentation's
                    # form, while detectron2 and mmdetection train on no crowd and the evaluation counts none.
                    "iscrowd": 0,
                    "mask_id": mask.mask_id,
                }
            )
            for text in texts:
                caption_id = captions["annotations"].num_elements + 1
                captions["annotations"].append(
                    {"id": caption_id, "image_id": image_id, "instance_id": instance_id, "caption": text}
                )


def _read_back(destination: RunLocation, instances: str, captions: str) -> Iterator[ReadMask]:
    where = destination.uri(instances)
    with ExitStack() as stack:

        def elements(path: str, name: str) -> Iterator[dict[str, Any]]:
            # Each reader has its own place in the file: two of them walk through the instances at once.
            file = stack.enter_context(destination.open_input(path))
            pairs = iter_json_arrays(file, destination.uri(path))
            if name == "images":
                # The first array: behind it there is nothing to look for. The last one is read to the file's end, so
                # that a file cut short is found.
                pairs = takewhile(lambda pair: pair[0] == name, pairs)
            return (element for array, element in pairs if array == name)

        texts = _Captions(elements(captions, "annotations"), destination.uri(captions))
        image_ids, mask_ids = RisingIds(where), RisingIds(where)
        masks = groupby(elements(instances, "annotations"), key=itemgetter("image_id"))
        image_records = zip_longest(elements(instances, "images"), elements(captions, "images"))
        for (image, same), (image_id, of_image) in zip_longest(image_records, masks, fillvalue=(None, ())):
            if image is None or image != same or image_ids.check(image["id"]) != image_id:
                raise broken(where, f"its images, captions and masks do not agree at image {image_id}")
            size = (image["height"], image["width"])
            for annotation in of_image:
                number = mask_ids.check(annotation["id"])
                counts = check_mask(annotation, size, f"{where}, annotation {number}")
                yield image["file_name"], size, counts, texts.take(number, image_id)
        texts.check_end()


class _Captions:
    """The captions in their order, given out mask by mask."""

    def __init__(self, captions: Iterator[Mapping[str, Any]], where: str) -> None:
        self._captions = captions
        self._where = where
        self._ids = RisingIds(where)
        self._next = next(captions, None)

    def take(self, instance_id: int, image_id: int) -> list[str]:
        """Return the texts of a mask; it may have none."""
        texts = []
        while self._next is not None and self._next["instance_id"] == instance_id:
            number = self._ids.check(self._next["id"])
            if self._next["image_id"] != image_id:
                raise broken(self._where, f"caption {number} and its mask {instance_id} belong to different images")
            texts.append(self._next["caption"])
            self._next = next(self._captions, None)
        return check_texts(texts, f"{self._where}, mask {instance_id}")

    def check_end(self) -> None:
        """Raise where captions of no mask, or of an earlier one, are left."""
        if self._next is not None:
            raise broken(self._where, f"caption {self._next['id']} belongs to no mask of the instances")
