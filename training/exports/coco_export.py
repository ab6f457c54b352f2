"""COCO: masks as instances, expressions as captions.

DEST/annotations/instances_<split>.json       images, every mask, one category
DEST/annotations/captions_<split>.json        the same images, every kept expression with its mask
DEST/images/<file_name>                       the images, upright

Both JSON files are in one order. They are read back side by side, so memory holds one image's masks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.image_files import CATEGORY, CATEGORY_ID
from pseudoris.training.exports.output_files import (
    IMAGES_ARRAY,
    ByImage,
    JsonArray,
    ManyFiles,
    json_arrays,
    new_file,
    read_array,
)
from pseudoris.training.exports.read_back import Content, RisingIds, broken, check_mask, check_texts
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.selected_rows import TextRule

_IMAGES_FOLDER: Final = "images"
_ANNOTATIONS_FOLDER: Final = "annotations"
_ANNOTATIONS: Final = "annotations"
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
        json_arrays(instances_file, (IMAGES_ARRAY, _ANNOTATIONS, "categories")) as instances,
        json_arrays(captions_file, (IMAGES_ARRAY, _ANNOTATIONS)) as captions,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images():
            files.write(_IMAGES_FOLDER, image.name, image.data)
            _add(image, instances, captions)
            job.add(image.content(image.name))
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


def _add(image: ExportImage, instances: dict[str, JsonArray], captions: dict[str, JsonArray]) -> None:
    record = {"id": image.number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
    instances[IMAGES_ARRAY].append(record)
    captions[IMAGES_ARRAY].append(record)
    for mask in image.masks:
        instances[_ANNOTATIONS].append(
            {
                "id": mask.number,
                "image_id": image.number,
                "category_id": CATEGORY_ID,
                # Bare, with text for counts: COCO's own readers distinguish it from polygons because it is not a list.
                "segmentation": mask.rle,
                "area": mask.area,
                "bbox": mask.box_xywh,
                # 0, although COCO itself writes encodings for crowds alone: pycocotools goes by the segmentation's
                # form, while detectron2 and mmdetection train on no crowd and the evaluation counts none.
                "iscrowd": 0,
                "mask_id": mask.record.mask_id,
            }
        )
    for said in image.expressions:
        instance_id = image.masks[said.targets[0]].number
        captions[_ANNOTATIONS].append(
            {"id": said.number, "image_id": image.number, "instance_id": instance_id, "caption": said.text}
        )


def _read_back(destination: RunLocation, instances: str, captions: str) -> Iterator[Content]:
    where = destination.uri(instances)
    masks = ByImage(read_array(destination, instances, _ANNOTATIONS), where)
    texts = ByImage(read_array(destination, captions, _ANNOTATIONS), destination.uri(captions))
    image_ids, mask_ids, text_ids = RisingIds(where), RisingIds(where), RisingIds(destination.uri(captions))
    both = (read_array(destination, path, IMAGES_ARRAY) for path in (instances, captions))
    for image, same in zip_longest(*both):
        if image is None or image != same:
            raise broken(where, f"its images and those of the captions differ at {image or same}")
        number, size = image_ids.check(image["id"]), (image["height"], image["width"])
        of_image = {mask_ids.check(each["id"]): each for each in masks.take(number)}
        encodings = [check_mask(each, size, f"{where}, annotation {key}") for key, each in of_image.items()]
        said = texts.take(number)
        for each in said:
            text_ids.check(each["id"])
        yield Content(image["file_name"], size, tuple(encodings), _targets(said, list(of_image), texts.where))
    masks.check_end()
    texts.check_end()


def _targets(said: list[Mapping[str, Any]], masks: list[int], where: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the captions of an image, each with the place of its mask."""
    strangers = [each["id"] for each in said if each["instance_id"] not in masks]
    if strangers:
        raise broken(where, f"caption {strangers[0]} belongs to a mask of another image, or to none")
    texts = check_texts([each["caption"] for each in said], where)
    return tuple((text, (masks.index(each["instance_id"]),)) for text, each in zip(texts, said, strict=True))
