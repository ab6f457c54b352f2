"""COCO's two files for a run: masks as instances, expressions as captions.

DEST/annotations/instances_<split>.json       images, every mask, one category
DEST/annotations/captions_<split>.json        the same images, every kept expression and the mask that it is of
DEST/images/<file_name>                       the images, upright
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from schemas.errors import ConfigError
from store.annotations import AnnotatedImage, AnnotatedMask
from training.exports.annotations import TextRule
from training.exports.coco_check import check_coco
from training.exports.coco_form import CATEGORY, CATEGORY_ID, box_xywh, rle_of
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.json_arrays import JsonArray, json_arrays
from training.exports.many_files import ManyFiles
from training.exports.pictures import Picture, iter_pictures
from training.exports.protocol import ExportReport, ExportRequest, OnProgress
from training.exports.workspace import finish_place, nothing_left, take_place

NAME: Final = "coco"
IMAGES_FOLDER: Final = "images"
ANNOTATIONS_FOLDER: Final = "annotations"
_SPLIT: Final = re.compile(r"[A-Za-z0-9_-]+")


class CocoExport:
    """Every mask with pixels, also one without a kept expression: as instances they are no worse."""

    summary = "instances and captions JSON with the images, for pycocotools, detectron2, mmdetection"
    reads = frozenset({"max_tokens", "split"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images and both files an image at a time, then read the files back side by side."""
        split = request.options.split
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"--split {split!r}: letters, digits, _ and - only; it becomes a part of file names")
        take_place(request, NAME, (ANNOTATIONS_FOLDER, IMAGES_FOLDER))
        paths = [f"{ANNOTATIONS_FOLDER}/{kind}_{split}.json" for kind in ("instances", "captions")]
        writing = _Writing(request)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, paths[0]) as instances_file,
            new_file(request.destination, paths[1]) as captions_file,
            json_arrays(instances_file, ("images", "annotations", "categories")) as instances,
            json_arrays(captions_file, ("images", "annotations")) as captions,
        ):
            writing.run(files, instances, captions, on_progress)
        files.check()
        check_coco(request.destination, *paths, due=writing.written, on_progress=on_progress)
        rows = {
            "images": writing.num_images,
            "instances": writing.written.num_masks,
            "captions": writing.written.num_texts,
        }
        finish_place(request, NAME, {"rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": files.num_files, "instances": 1, "captions": 1},
            size_bytes=files.size_bytes + sum(request.destination.size(path) or 0 for path in paths),
            dropped=writing.dropped,
            notes=(
                'Masks are run-length encodings: detectron2 wants INPUT.MASK_FORMAT = "bitmask" for them.',
                "A caption is of one mask: its instance_id is the id of an annotation of the instances.",
            ),
            checked=(
                "every mask decodes to its image's size, box and area; all masks and expressions are the run's",
                "ids are unique plain ints; no caption is empty; every image file stands",
            ),
        )


class _Writing:
    """Images, masks and expressions on their way into the files, numbered from 1 in the order of the plan."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0

    def run(
        self,
        files: ManyFiles,
        instances: dict[str, JsonArray],
        captions: dict[str, JsonArray],
        on_progress: OnProgress,
    ) -> None:
        instances["categories"].append(CATEGORY)
        rule = TextRule(self._request.options.max_tokens)
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress, keeps_bare_masks=True):
            files.write(IMAGES_FOLDER, picture.name, picture.data)
            self.num_images += 1
            record = _image_record(self.num_images, image, picture)
            instances["images"].append(record)
            captions["images"].append(record)
            for mask in image.masks:
                texts = [expression.text for expression in mask.expressions]
                self.written.add(picture.name, mask.rle_size, mask.rle_counts, texts)
                instance_id = self.written.num_masks
                instances["annotations"].append(_instance_record(instance_id, self.num_images, mask))
                for text in texts:
                    caption_id = captions["annotations"].num_elements + 1
                    captions["annotations"].append(
                        {"id": caption_id, "image_id": self.num_images, "instance_id": instance_id, "caption": text}
                    )
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)


def _image_record(number: int, image: AnnotatedImage, picture: Picture) -> dict[str, Any]:
    return {"id": number, "file_name": picture.name, "height": int(image.height), "width": int(image.width)}


def _instance_record(number: int, image_number: int, mask: AnnotatedMask) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_number,
        "category_id": CATEGORY_ID,
        # Bare, with text for counts: COCO's own readers tell it from polygons by its being no list.
        "segmentation": rle_of(mask),
        "area": int(mask.area_px),
        "bbox": box_xywh(mask),
        # 0, although COCO itself writes encodings for crowds alone: pycocotools goes by the segmentation's form, while
        # detectron2 and mmdetection train on no crowd and the evaluation counts none.
        "iscrowd": 0,
        "mask_id": mask.mask_id,
    }
