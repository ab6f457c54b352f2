"""COCO: masks as instances, expressions as captions.

DEST/annotations/instances_<split>.json       images, every mask, one category
DEST/annotations/captions_<split>.json        the same images, every kept expression with its mask
DEST/images/<file_name>                       the images, upright

Both JSON files are in one order. They are read back side by side, so memory holds one image's masks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby, takewhile, zip_longest
from operator import itemgetter
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.training.exports.destination import claim_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import CATEGORY, CATEGORY_ID, ImageFile, box_xywh, iter_image_files, rle_of
from pseudoris.training.exports.output_files import (
    Fingerprint,
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
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import TextRule

NAME: Final = "coco"
IMAGES_FOLDER: Final = "images"
ANNOTATIONS_FOLDER: Final = "annotations"
_SPLIT: Final = re.compile(r"[A-Za-z0-9_-]+")
_PROGRESS_EVERY: Final = 1_000


class CocoExport:
    """Every mask with pixels, also one without a kept expression: as instances they are just as valid."""

    summary = "instances and captions JSON with the images: pycocotools, detectron2, mmdetection"
    reads = frozenset({"max_tokens", "split"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write images and both files an image at a time, then read the files back side by side."""
        split = request.options.split
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"--split {split!r} becomes part of file names. Use only letters, digits, _ and -.")
        claim_destination(request, NAME, (ANNOTATIONS_FOLDER, IMAGES_FOLDER))
        paths = [f"{ANNOTATIONS_FOLDER}/{kind}_{split}.json" for kind in ("instances", "captions")]
        writer = _Writer(request)
        with (
            ManyFiles(request.destination) as files,
            new_file(request.destination, paths[0]) as instances_file,
            new_file(request.destination, paths[1]) as captions_file,
            json_arrays(instances_file, ("images", "annotations", "categories")) as instances,
            json_arrays(captions_file, ("images", "annotations")) as captions,
        ):
            writer.run(files, instances, captions, on_progress)
        files.check()
        check_coco(request.destination, *paths, due=writer.written, on_progress=on_progress)
        rows = {
            "images": writer.num_images,
            "instances": writer.written.num_masks,
            "captions": writer.written.num_texts,
        }
        mark_whole(request, NAME, {"rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": files.num_files, "instances": 1, "captions": 1},
            size_bytes=files.size_bytes + sum(request.destination.size(path) or 0 for path in paths),
            dropped=writer.dropped,
            notes=(
                'Masks are run-length encodings: detectron2 wants INPUT.MASK_FORMAT = "bitmask" for them.',
                "Each caption belongs to one mask: its instance_id is the id of the annotation of that mask.",
            ),
            checked=(
                "every mask decodes to its image's size, box and area; all masks and expressions equal the run's",
                "ids are unique plain ints; no caption is empty; every image file exists",
            ),
        )


class _Writer:
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
        for image, image_file in iter_image_files(
            self._request, self.dropped, rule, on_progress, keeps_bare_masks=True
        ):
            files.write(IMAGES_FOLDER, image_file.name, image_file.data)
            self.num_images += 1
            record = _image_record(self.num_images, image, image_file)
            instances["images"].append(record)
            captions["images"].append(record)
            for mask in image.masks:
                texts = [expression.text for expression in mask.expressions]
                self.written.add(image_file.name, mask.rle_size, mask.rle_counts, texts)
                instance_id = self.written.num_masks
                instances["annotations"].append(_instance_record(instance_id, self.num_images, mask))
                for text in texts:
                    caption_id = captions["annotations"].num_elements + 1
                    captions["annotations"].append(
                        {"id": caption_id, "image_id": self.num_images, "instance_id": instance_id, "caption": text}
                    )
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)


def _image_record(number: int, image: AnnotatedImage, image_file: ImageFile) -> dict[str, Any]:
    return {"id": number, "file_name": image_file.name, "height": int(image.height), "width": int(image.width)}


def _instance_record(number: int, image_number: int, mask: AnnotatedMask) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_number,
        "category_id": CATEGORY_ID,
        # Bare, with text for counts: COCO's own readers distinguish it from polygons because it is not a list.
        "segmentation": rle_of(mask),
        "area": int(mask.area_px),
        "bbox": box_xywh(mask),
        # 0, although COCO itself writes encodings for crowds alone: pycocotools goes by the segmentation's form, while
        # detectron2 and mmdetection train on no crowd and the evaluation counts none.
        "iscrowd": 0,
        "mask_id": mask.mask_id,
    }


def check_coco(
    destination: RunLocation, instances: str, captions: str, *, due: Fingerprint, on_progress: OnProgress
) -> None:
    """Read images, masks and captions, and compare them with what was written.

    Raises:
        TransientError: Something is not as it was written; the message says which record.
    """
    where = destination.uri(instances)
    with ExitStack() as stack:

        def elements(path: str, name: str) -> Iterator[dict[str, Any]]:
            file = stack.enter_context(destination.open_input(path))
            return _elements(iter_json_arrays(file, destination.uri(path)), name)

        texts = _Captions(elements(captions, "annotations"), destination.uri(captions))
        image_ids, mask_ids, found = RisingIds(where), RisingIds(where), Fingerprint()
        # Each reader has its own place in the file: two of them walk through the instances at once.
        masks = groupby(elements(instances, "annotations"), key=itemgetter("image_id"))
        image_records = zip_longest(elements(instances, "images"), elements(captions, "images"))
        for (image, same), (image_id, of_image) in zip_longest(image_records, masks, fillvalue=(None, ())):
            if image is None or image != same or image_ids.check(image["id"]) != image_id:
                raise broken(where, f"its images, captions and masks do not agree at image {image_id}")
            size = (image["height"], image["width"])
            for annotation in of_image:
                number = mask_ids.check(annotation["id"])
                counts = check_mask(annotation, size, f"{where}, annotation {number}")
                found.add(image["file_name"], size, counts, texts.take(number, image_id))
                if found.num_masks % _PROGRESS_EVERY == 0:
                    on_progress(found.num_masks, due.num_masks, CHECKING)
        texts.check_end()
    on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, where)


def _elements(pairs: Iterator[tuple[str, dict[str, Any]]], name: str) -> Iterator[dict[str, Any]]:
    if name == "images":
        # The first array: behind it there is nothing to look for. The last one is read to the file's end, so that a
        # file cut short is found.
        pairs = takewhile(lambda pair: pair[0] == name, pairs)
    return (element for array, element in pairs if array == name)


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
