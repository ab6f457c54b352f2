"""Exports COCO's layout and two variants of it. Listed in `EXPORTS` for `cli/export`; `refer.py` uses its parts.

coco      DEST/annotations/instances_<split>.json        images, every mask with its expressions, one category
          DEST/annotations/captions_<split>.json         the same images, every expression with its mask
          DEST/images/<file_name>                        the images, upright
sam3      DEST/annotations.json                          an annotation per target of an expression, a category per text
          DEST/per_image_queries.py                      the loader class that asks each image for its own expressions
grefcoco  DEST/grefcoco/grefs(unc).json                  a reference per set of masks, with its expressions
          DEST/grefcoco/instances.json                   images, masks as one polygon each, one category
          DEST/images/mscoco/images/train2014/<file_name>

Files are in one order and are read back side by side, so memory holds one image's masks. Sources: facebookresearch/sam3
99d02f2, sam3/train/data/{coco_json_loaders,sam3_image_dataset}.py; henghuiding/ReLA 3ca9551, gres_model/data;
LeapLabTHU/GSVA 618dc79, data/refer_seg_dataset.py; voxel51/fiftyone 1.22.1, fiftyone/utils/coco.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, zip_longest
from pkgutil import get_data
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import CATEGORY, CATEGORY_ID
from pseudoris.interchange.exports.output_files import IMAGES_ARRAY, ByImage, read_array, read_records
from pseudoris.interchange.exports.record import (
    Content,
    ExportExpression,
    ExportImage,
    ExportMask,
    RisingIds,
    broken,
    check_mask,
    check_texts,
)
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.primitives.errors import ConfigError

ANNOTATIONS: Final = "annotations"
IMAGES_FOLDER: Final = "images"
REFER_IMAGES_FOLDER: Final = "images/mscoco/images/train2014"
REFER_SPLITS: Final = ("train", "val", "test", "testA", "testB")


def image_record(number: int, image: ExportImage) -> dict[str, Any]:
    """Return an image as an element of `images`."""
    return {"id": number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}


def annotation_of(image: ExportImage, mask: ExportMask, segmentation: Any, **changes: Any) -> dict[str, Any]:
    """Return a mask as an element of `annotations`, with changed or further keys."""
    return {
        "id": mask.number,
        "image_id": image.number,
        "category_id": CATEGORY_ID,
        "segmentation": segmentation,
        "area": int(mask.record.area_px),
        "bbox": mask.box_xywh,
        # 0, though COCO writes run-length encodings for crowds alone: pycocotools goes by the segmentation's form, and
        # detectron2, mmdetection and the evaluation leave out crowds.
        "iscrowd": 0,
        **changes,
    }


class ResizedPolygons:
    """Measures how well polygons of corners fill after a loader has resized them, on the first masks of an export.

    Source: henghuiding/ReLA 3ca9551, gres_model/data/dataset_mappers/refcoco_mapper.py; configs/referring_R50.yaml.
    """

    _SIDE_PX: Final = 480
    _MAX_MASKS: Final = 10_000

    def __init__(self) -> None:
        self._ious: list[float] = []

    def add(self, polygon: Sequence[int], pixels: NDArray[np.bool_]) -> None:
        """Compare a polygon [x0, y0, …] that was resized and filled with its mask (height, width) that was resized."""
        if len(self._ious) < self._MAX_MASKS:
            side, scales = self._SIDE_PX, self._SIDE_PX / np.array(pixels.shape[::-1])
            filled = coco.frPyObjects([(np.reshape(polygon, (-1, 2)) * scales).ravel().tolist()], side, side)
            # Each pixel of the resized mask gets the value of the full-size pixel under its centre.
            rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in pixels.shape)
            due = coco.encode(np.asfortranarray(pixels[np.ix_(rows, columns)], np.uint8))
            self._ious.append(float(coco.iou(filled, [due], [0])[0, 0]))

    def note(self) -> str:
        """Return mean and worst as a sentence for the user."""
        return (
            f"ReLA resizes polygons to {self._SIDE_PX} x {self._SIDE_PX} before it fills them. Of {len(self._ious):,} "
            f"masks what it fills has a mean IoU of {np.mean(self._ious):.4f} with the resized mask; the worst has "
            f"{min(self._ious):.4f}."
        )


def read_instances(
    destination: RunLocation, path: str, *, is_polygon: bool = False
) -> Iterator[tuple[Mapping[str, Any], dict[int, Mapping[str, Any]], tuple[str, ...]]]:
    """Yield each image, its annotations by id, and their encodings; check that ids rise and masks fit boxes, areas."""
    where = destination.uri(path)
    annotations = ByImage(read_array(destination, path, ANNOTATIONS), where)
    image_ids, ids = RisingIds(where), RisingIds(where)
    for image in read_array(destination, path, IMAGES_ARRAY):
        of_image = {ids.check(each["id"]): each for each in annotations.take(image_ids.check(image["id"]))}
        size = (image["height"], image["width"])
        yield (
            image,
            of_image,
            tuple(
                check_mask(each, size, f"{where}, annotation {number}", is_polygon=is_polygon)
                for number, each in of_image.items()
            ),
        )
    annotations.check_end()


def _content(image: Mapping[str, Any], masks: Sequence[str], said: Iterable[tuple[str, tuple[int, ...]]]) -> Content:
    return Content(image["file_name"], (image["height"], image["width"]), tuple(masks), tuple(said))


def _write_coco(job: ExportJob) -> ExportReport:
    _, split = job.names("coco")
    job.claim(ANNOTATIONS, IMAGES_FOLDER)
    paths = [f"{ANNOTATIONS}/{kind}_{split}.json" for kind in ("instances", "captions")]
    with (
        job.files() as files,
        job.arrays(paths[0], IMAGES_ARRAY, ANNOTATIONS, "categories") as instances,
        job.arrays(paths[1], IMAGES_ARRAY, ANNOTATIONS) as captions,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            instances[IMAGES_ARRAY].append(image_record(image.number, image))
            captions[IMAGES_ARRAY].append(image_record(image.number, image))
            for mask, said in image.masks_with_texts():
                # The encoding is not in a list, because COCO's own readers take a list for polygons. The expressions
                # are a key too, for FiftyOne: it reads no file of captions, and keeps the keys of an annotation.
                keys = {"mask_id": mask.record.mask_id, "expressions": [each.text for each in said]}
                instances[ANNOTATIONS].append(annotation_of(image, mask, mask.rle, **keys))
                for each in said:
                    ids = {"id": each.number, "image_id": image.number, "instance_id": mask.number}
                    captions[ANNOTATIONS].append({**ids, "caption": each.text, **each.origin})
            job.add(image.content(image.name))
    job.check(_read_coco(job.destination, *paths), job.destination.uri(paths[0]))
    return job.report(
        {"images": job.num_images, "instances": job.written.num_masks, "captions": job.written.num_texts},
        {"images": job.num_files, "instances": 1, "captions": 1},
        notes=(
            'Masks are run-length encodings: detectron2 wants INPUT.MASK_FORMAT = "bitmask" for them.',
            "Each caption belongs to one mask: its instance_id is the id of the annotation of that mask.",
        ),
        checked="every mask decodes to its image's size, box and area; ids are unique plain ints",
    )


# The format takes all masks that have pixels, because a COCO instance needs no expression.
_COCO_TAKES: Final = TextRule(keeps_bare_masks=True)
_COCO_SUMMARY: Final = "instances and captions: pycocotools, detectron2, mmdetection, FiftyOne"
COCO: Final = ExportFormat("coco", _COCO_SUMMARY, _write_coco, _COCO_TAKES, ("max_tokens", "split"))


def _read_coco(destination: RunLocation, instances: str, captions: str) -> Iterator[Content]:
    texts = ByImage(read_array(destination, captions, ANNOTATIONS), destination.uri(captions))
    ids = RisingIds(texts.where)
    pairs = zip_longest(read_instances(destination, instances), read_array(destination, captions, IMAGES_ARRAY))
    for found, same in pairs:
        if found is None or found[0] != same:
            where = destination.uri(instances)
            raise broken(where, f"its images and those of the captions differ at {found[0] if found else same}")
        image, masks, encodings = found
        places = {number: place for place, number in enumerate(masks)}
        said: list[tuple[str, tuple[int, ...]]] = []
        expressions: list[list[str]] = [[] for _ in masks]
        for each in texts.take(image["id"]):
            place = f"{texts.where}, caption {ids.check(each['id'])}"
            if each["instance_id"] not in places:
                raise broken(place, "it belongs to a mask of another image, or to none")
            (text,) = check_texts([each["caption"]], place)
            said.append((text, (places[each["instance_id"]],)))
            expressions[said[-1][1][0]].append(text)
        if [each["expressions"] for each in masks.values()] != expressions:
            raise broken(f"{destination.uri(instances)}, image {image['id']}", "its expressions are not its captions")
        yield _content(image, encodings, said)
    texts.check_end()


_SAM3_PATH: Final = "annotations.json"
_LOADER: Final = "per_image_queries.py"


def _write_sam3(job: ExportJob) -> ExportReport:
    """Write image by image; memory holds every distinct text, numbered from 1, as the trainer does."""
    job.claim(IMAGES_FOLDER)
    texts: dict[str, int] = {}
    with job.files() as files, job.arrays(_SAM3_PATH, IMAGES_ARRAY, ANNOTATIONS, "categories") as arrays:
        for image in job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            # SAM 3 expects all objects of a query, so a text gets the targets of all expressions with that text.
            targets: dict[str, dict[int, None]] = {}
            for each in image.expressions:
                targets.setdefault(each.text, {}).update(dict.fromkeys(each.targets))
            masks, said = list[str](), list[tuple[str, tuple[int, ...]]]()
            for text, places in targets.items():
                if text not in texts:
                    texts[text] = len(texts) + 1
                    arrays["categories"].append({"id": texts[text], "name": text})
                said.append((text, tuple(range(len(masks), len(masks) + len(places)))))
                for mask in (image.masks[place] for place in places):
                    masks.append(mask.record.rle_counts)
                    keys = {"id": arrays[ANNOTATIONS].num_elements + 1, "category_id": texts[text]}
                    arrays[ANNOTATIONS].append(annotation_of(image, mask, mask.rle, **keys))
            negative = [texts[text] for text, places in targets.items() if not places]
            arrays[IMAGES_ARRAY].append({**image_record(image.number, image), "negative_category_ids": negative})
            job.add(Content(image.name, image.size, tuple(masks), tuple(said)))
    job.add_file(_LOADER, get_data(__package__, f"templates/{_LOADER}.j2") or b"")
    job.check(_read_sam3(job.destination, list(texts)), job.destination.uri(_SAM3_PATH))
    return job.report(
        {"images": job.num_images, "queries": len(texts), "annotations": job.written.num_masks},
        {"images": job.num_files, "queries": 1},
        notes=(
            f"In the training's config give ann_file {_SAM3_PATH}, img_folder images, and as coco_json_loader "
            f"per_image_queries.PerImageQueries with _partial_: true, with this folder on PYTHONPATH. By itself the "
            "loader asks every text of every image, and refuses images of more than 81.",
            "The published config stops after 100 images (limit_ids) and trains without masks (enable_segmentation).",
        ),
        checked="every mask decodes to its image's size, box and area; ids are unique plain ints",
    )


# SAM 3 reads at most 32 tokens of a text.
_SAM3_TAKES: Final = TextRule(max_tokens=32, with_groups=True, with_none=True)
_SAM3_SUMMARY: Final = "COCO with an expression a category, and its loader class, for SAM 3's fine-tuning"
SAM3: Final = ExportFormat("sam3", _SAM3_SUMMARY, _write_sam3, _SAM3_TAKES)


def _read_sam3(destination: RunLocation, texts: list[str]) -> Iterator[Content]:
    if [each["name"] for each in read_array(destination, _SAM3_PATH, "categories")] != texts:
        raise broken(destination.uri(_SAM3_PATH), "its categories are others than the texts")
    for image, of_image, encodings in read_instances(destination, _SAM3_PATH):
        places: dict[int, tuple[int, ...]] = {}
        for place, each in enumerate(of_image.values()):
            places[each["category_id"]] = (*places.get(each["category_id"], ()), place)
        places.update((number, ()) for number in image["negative_category_ids"])
        yield _content(image, encodings, ((texts[number - 1], found) for number, found in places.items()))


_REFS: Final = "grefcoco/grefs(unc).json"
_INSTANCES: Final = "grefcoco/instances.json"
# A reference without a mask has this number in place of the mask's id and category.
_NONE: Final = -1


def _write_grefcoco(job: ExportJob) -> ExportReport:
    if job.options.split not in REFER_SPLITS:
        raise ConfigError(
            f"--split {job.options.split!r} is not a split of gRefCOCO. Choose from {', '.join(REFER_SPLITS)}."
        )
    job.claim("grefcoco", REFER_IMAGES_FOLDER)
    ref_ids, resized = count(1), ResizedPolygons()
    with (
        job.files() as files,
        job.records(_REFS) as refs,
        job.arrays(_INSTANCES, IMAGES_ARRAY, ANNOTATIONS, "categories") as instances,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images():
            files.write(REFER_IMAGES_FOLDER, image.name, image.data)
            instances[IMAGES_ARRAY].append(image_record(image.number, image))
            polygons = [mask.corner_polygon() for mask in image.masks]
            for mask, (polygon, _) in zip(image.masks, polygons, strict=True):
                instances[ANNOTATIONS].append(annotation_of(image, mask, [polygon]))
                resized.add(polygon, mask.pixels())
            for targets, said in image.by_targets().items():
                ids = [image.masks[place].number for place in targets] or [_NONE]
                categories = [CATEGORY_ID] * len(targets) or [_NONE]
                refs.append(ref_of(image, said, job.options.split, next(ref_ids), ids, categories))
            job.add(image.content(image.name, (counts for _, counts in polygons)))
    job.check(_read_grefcoco(job.destination), job.destination.uri(_REFS))
    return job.report(
        {"images": job.num_images, "references": refs.num_elements, "expressions": job.written.num_texts},
        {"images": job.num_files, "references": 1},
        notes=(
            "GSVA, EVF-SAM and PixelLM read this folder as refer_seg. For ReLA link images/train2014 to "
            f"{REFER_IMAGES_FOLDER}; for GLaMM link Refer_Segm/coco_2014/train2014.",
            "ReLA cuts texts at 20 BERT tokens. A trainer that evaluates asks for the splits val, testA and testB too, "
            "and stops without them.",
            resized.note(),
        ),
        checked="every polygon fills to its mask, with its box and area; ids are plain ints",
    )


# GSVA and GLaMM join texts with `||`, and replace `<image>` by an image, so texts may not contain them.
_GREFCOCO_TAKES: Final = TextRule(is_lower_case=True, refused=("||", "<image>"), with_groups=True, with_none=True)
_GREFCOCO_SUMMARY: Final = "references of one mask, of several and of none, as gRefCOCO has them"
GREFCOCO: Final = ExportFormat("grefcoco", _GREFCOCO_SUMMARY, _write_grefcoco, _GREFCOCO_TAKES, ("max_tokens", "split"))


def ref_of(
    image: ExportImage, said: Sequence[ExportExpression], split: str, ref_id: int, ann_id: Any, category_id: Any
) -> dict[str, Any]:
    """Return expressions as a reference; `sent` and `raw` hold the text: trainers read one or the other."""
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image.number,
        "category_id": category_id,
        "split": split,
        "sent_ids": [each.number for each in said],
        "sentences": [
            {"sent_id": each.number, "sent": each.text, "raw": each.text, "tokens": each.text.split(), **each.origin}
            for each in said
        ],
        "file_name": image.name,
    }


def _read_grefcoco(destination: RunLocation) -> Iterator[Content]:
    refs = ByImage(read_records(destination, _REFS), destination.uri(_REFS))
    ids = RisingIds(refs.where)
    for image, masks, encodings in read_instances(destination, _INSTANCES, is_polygon=True):
        said: list[tuple[int, str, tuple[int, ...]]] = []
        for ref in refs.take(image["id"]):
            place = f"{refs.where}, reference {ids.check(ref['ref_id'])}"
            if ref["ann_id"] != [_NONE] and not set(ref["ann_id"]) <= masks.keys():
                raise broken(place, "it names a mask that is not of its image")
            targets = tuple(list(masks).index(number) for number in ref["ann_id"] if number != _NONE)
            texts = check_texts([each["sent"] for each in ref["sentences"]], place)
            said += [(number, text, targets) for number, text in zip(ref["sent_ids"], texts, strict=True)]
        # Texts are sorted by their numbers, because the file lists them by masks, not in the order of the texts.
        yield _content(image, encodings, ((text, found) for _, text, found in sorted(said)))
    refs.check_end()
