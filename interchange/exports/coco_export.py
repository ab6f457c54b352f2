"""Exports COCO's layout and two variants of it. Listed in `EXPORTS` for `cli/export`; `refer.py` uses its parts.

coco      DEST/annotations/instances_<split>.json        images, every mask with its expressions, one category; of
                                                         tiles also in the frame of the picture
          DEST/annotations/captions_<split>.json         the same images, every expression with its mask
          DEST/images/<file_name>                        the images, upright
sam3      DEST/annotations.json                          an annotation per target of an expression, a category per text
          DEST/per_image_queries.py                      the loader class that asks each image for its own expressions
grefcoco  DEST/grefcoco/grefs(unc).json                  a reference per set of masks, with its expressions
          DEST/grefcoco/instances.json                   images, masks as one polygon each, one category
          DEST/images/mscoco/images/train2014/<file_name>

Their trainers must open the files as they are. Sources: facebookresearch/sam3
99d02f2, sam3/train/data/{coco_json_loaders,sam3_image_dataset}.py; henghuiding/ReLA 3ca9551, gres_model/data;
LeapLabTHU/GSVA 618dc79, data/refer_seg_dataset.py; voxel51/fiftyone 1.22.1, fiftyone/utils/coco.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pkgutil import get_data
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.image_files import CATEGORY, CATEGORY_ID
from pseudoris.interchange.exports.output_files import IMAGES_ARRAY
from pseudoris.interchange.exports.record import (
    Content,
    ExportExpression,
    ExportImage,
    ExportMask,
    Measured,
    written_counts,
)
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import SPLITS

ANNOTATIONS: Final = "annotations"
IMAGES_FOLDER: Final = "images"
REFER_IMAGES_FOLDER: Final = "images/mscoco/images/train2014"


def image_record(image: ExportImage) -> dict[str, Any]:
    """Return an image as an element of `images`."""
    return {"id": image.number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}


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
            # Columns come first, because pycocotools wants them one after the other in memory.
            due = coco.encode(pixels.T.take(columns, 0).take(rows, 1).view(np.uint8).T)
            self._ious.append(float(coco.iou(filled, [due], [0])[0, 0]))

    def note(self) -> str:
        """Return mean and worst as a sentence for the user."""
        return (
            f"ReLA resizes polygons to {self._SIDE_PX} x {self._SIDE_PX} before it fills them. Of {len(self._ious):,} "
            f"masks what it fills has a mean IoU of {np.mean(self._ious):.4f} with the resized mask; the worst has "
            f"{min(self._ious):.4f}."
        )


def content_of(
    image: Mapping[str, Any],
    annotations: Iterable[Mapping[str, Any]],
    said: Iterable[tuple[str, tuple[int, ...]]],
    measured: Measured,
) -> Content:
    """Return what a written image says with its annotations, decoded, and the texts with their places among these."""
    size = (image["height"], image["width"])
    masks = tuple(written_counts(each, size, measured) for each in annotations)
    return Content(image["file_name"], size, masks, tuple(said))


def _in_picture(image: ExportImage, mask: ExportMask) -> dict[str, Any]:
    """Return a mask's box and polygon in the frame of the picture that the image is a tile of; nothing of others."""
    if not image.tile:
        return {}
    (left, top, *_), (x, y, width, height) = image.tile["tile_xyxy_px"], mask.box_xywh
    polygon, _ = mask.corner_polygon(mask.pixels())
    moved = [edge + (top if at % 2 else left) for at, edge in enumerate(polygon)]
    return {"picture_bbox": [x + left, y + top, width, height], "picture_segmentation": [moved]}


def _write_coco(job: ExportJob) -> ExportReport:
    _, splits = job.names("coco")
    job.claim(ANNOTATIONS, IMAGES_FOLDER)
    for split in splits:
        _write_instances(job, split)
    return job.report(
        {"images": job.num_images, "instances": job.written.num_masks, "captions": job.written.num_texts},
        {"images": job.files.num_files, "instances": len(splits), "captions": len(splits)},
        notes=(
            'Masks are run-length encodings: detectron2 wants INPUT.MASK_FORMAT = "bitmask" for them.',
            "Each caption belongs to one mask: its instance_id is the id of the annotation of that mask.",
        ),
        checked="every mask decodes to its image's size, box and area",
    )


def _write_instances(job: ExportJob, split: str) -> None:
    paths = [f"{ANNOTATIONS}/{kind}_{split}.json" for kind in ("instances", "captions")]
    with (
        job.arrays(paths[0], IMAGES_ARRAY, ANNOTATIONS, "categories") as instances,
        job.arrays(paths[1], IMAGES_ARRAY, ANNOTATIONS) as captions,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images(IMAGES_FOLDER, split):
            row = instances[IMAGES_ARRAY].append({**image_record(image), **image.tile})
            captions[IMAGES_ARRAY].append(image_record(image))
            masks, texts = [], []
            for place, (mask, said) in enumerate(image.masks_with_texts()):
                # The encoding is not in a list, because COCO's own readers take a list for polygons. The expressions
                # are a key too, for FiftyOne: it reads no file of captions, and keeps the keys of an annotation.
                keys = {"mask_id": mask.record.mask_id, "expressions": [each.text for each in said]}
                keys |= _in_picture(image, mask)
                masks.append(instances[ANNOTATIONS].append(annotation_of(image, mask, mask.rle, **keys)))
                for each in said:
                    ids = {"id": each.number, "image_id": image.number, "instance_id": mask.number}
                    caption = captions[ANNOTATIONS].append({**ids, "caption": each.text, **each.origin})
                    texts.append((caption["caption"], (place,)))
            job.add(image.content(image.name), content_of(row, masks, texts, image.measured))


# The format takes all masks that have pixels, because a COCO instance needs no expression.
_COCO_TAKES: Final = TextRule(keeps_bare_masks=True)
_COCO_SUMMARY: Final = "instances and captions: pycocotools, detectron2, mmdetection, FiftyOne"
COCO: Final = ExportFormat("coco", _COCO_SUMMARY, _write_coco, _COCO_TAKES, ("max_tokens", "split"))


_SAM3_PATH: Final = "annotations.json"
_LOADER: Final = "per_image_queries.py"


def _write_sam3(job: ExportJob) -> ExportReport:
    """Write image by image; memory holds every distinct text, numbered from 1, as the trainer does."""
    job.claim(IMAGES_FOLDER)
    paths = job.paths(_SAM3_PATH)
    num_queries = sum(_write_queries(job, path, split) for split, path in paths.items())
    job.add_file(_LOADER, get_data(__package__, f"templates/{_LOADER}.j2") or b"")
    return job.report(
        {"images": job.num_images, "queries": num_queries, "annotations": job.written.num_masks},
        {"images": job.files.num_files, "queries": len(paths)},
        notes=(
            f"In the training's config give ann_file {', '.join(paths.values())}, img_folder images, and as "
            "coco_json_loader per_image_queries.PerImageQueries with _partial_: true, with this folder on PYTHONPATH. "
            "By itself the loader asks every text of every image, and refuses images of more than 81.",
            "The published config stops after 100 images (limit_ids) and trains without masks (enable_segmentation).",
        ),
        checked="every mask decodes to its image's size, box and area",
    )


def _write_queries(job: ExportJob, path: str, split: str) -> int:
    """Write the images of a split; return how many distinct texts they have."""
    texts, names = dict[str, int](), list[str]()
    with job.arrays(path, IMAGES_ARRAY, ANNOTATIONS, "categories") as arrays:
        for image in job.images(IMAGES_FOLDER, split):
            # SAM 3 expects all objects of a query, so a text gets the targets of all expressions with that text.
            targets: dict[str, dict[int, None]] = {}
            for each in image.expressions:
                targets.setdefault(each.text, {}).update(dict.fromkeys(each.targets))
            due, found = list[str](), list[Mapping[str, Any]]()
            said, read = list[tuple[str, tuple[int, ...]]](), list[tuple[str, tuple[int, ...]]]()
            for text, places in targets.items():
                if text not in texts:
                    texts[text] = len(texts) + 1
                    names.append(arrays["categories"].append({"id": texts[text], "name": text})["name"])
                said.append((text, tuple(range(len(due), len(due) + len(places)))))
                for mask in (image.masks[place] for place in places):
                    due.append(mask.record.rle_counts)
                    keys = {"id": arrays[ANNOTATIONS].num_elements + 1, "category_id": texts[text]}
                    found.append(arrays[ANNOTATIONS].append(annotation_of(image, mask, mask.rle, **keys)))
                of_text = (place for place, each in enumerate(found) if each["category_id"] == texts[text])
                read.append((names[texts[text] - 1], tuple(of_text)))
            negative = [texts[text] for text, places in targets.items() if not places]
            row = {**image_record(image), "negative_category_ids": negative}
            job.add(
                Content(image.name, image.size, tuple(due), tuple(said)),
                content_of(arrays[IMAGES_ARRAY].append(row), found, read, image.measured),
            )
    return len(texts)


# SAM 3 reads at most 32 tokens of a text.
_SAM3_TAKES: Final = TextRule(max_tokens=32, with_groups=True, with_none=True)
_SAM3_SUMMARY: Final = "COCO with an expression a category, and its loader class, for SAM 3's fine-tuning"
SAM3: Final = ExportFormat("sam3", _SAM3_SUMMARY, _write_sam3, _SAM3_TAKES)


_REFS: Final = "grefcoco/grefs(unc).json"
_INSTANCES: Final = "grefcoco/instances.json"
# A reference without a mask has this number in place of the mask's id and category.
_NONE: Final = -1


def _write_grefcoco(job: ExportJob) -> ExportReport:
    for split in job.splits:
        if split not in SPLITS:
            raise ConfigError(f"--split {split!r} is not a split of gRefCOCO. Choose from {', '.join(SPLITS)}.")
    job.claim("grefcoco", REFER_IMAGES_FOLDER)
    ref_ids, resized = count(1), ResizedPolygons()
    with (
        job.records(_REFS) as refs,
        job.arrays(_INSTANCES, IMAGES_ARRAY, ANNOTATIONS, "categories") as instances,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images(REFER_IMAGES_FOLDER):
            row = instances[IMAGES_ARRAY].append(image_record(image))
            counts, masks, texts = [], dict[int, Any](), list[tuple[int, str, tuple[int, ...]]]()
            for mask in image.masks:
                pixels = mask.pixels()
                polygon, code = mask.corner_polygon(pixels)
                masks[mask.number] = instances[ANNOTATIONS].append(annotation_of(image, mask, [polygon]))
                counts.append(code)
                resized.add(polygon, pixels)
            for targets, said in image.by_targets().items():
                ids = [image.masks[place].number for place in targets] or [_NONE]
                categories = [CATEGORY_ID] * len(targets) or [_NONE]
                ref = refs.append(ref_of(image, said, image.split, next(ref_ids), ids, categories))
                places = tuple(list(masks).index(number) for number in ref["ann_id"] if number != _NONE)
                texts += [(each["sent_id"], each["sent"], places) for each in ref["sentences"]]
            # Texts are sorted by their numbers, because the file lists them by masks, not in the order of the texts.
            in_order = ((text, places) for _, text, places in sorted(texts))
            job.add(image.content(image.name, counts), content_of(row, masks.values(), in_order, image.measured))
    return job.report(
        {"images": job.num_images, "references": refs.num_elements, "expressions": job.written.num_texts},
        {"images": job.files.num_files, "references": 1},
        notes=(
            "GSVA, EVF-SAM and PixelLM read this folder as refer_seg. For ReLA link images/train2014 to "
            f"{REFER_IMAGES_FOLDER}; for GLaMM link Refer_Segm/coco_2014/train2014.",
            "ReLA cuts texts at 20 BERT tokens. A trainer that evaluates asks for the splits val, testA and testB too, "
            "and stops without them.",
            resized.note(),
        ),
        checked="every polygon fills to its mask, with its box and area",
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
