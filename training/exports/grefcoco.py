"""gRefCOCO: references of one mask, of several, and of none, as ReLA, GSVA, EVF-SAM, PixelLM and GLaMM read them.

DEST/grefcoco/grefs(unc).json                          a reference a set of masks, with its expressions
DEST/grefcoco/instances.json                           images, masks as one polygon each, one category
DEST/images/mscoco/images/train2014/<file_name>        the images, upright

Sources: henghuiding/ReLA 3ca9551, gres_model/data; LeapLabTHU/GSVA 618dc79, data/refer_seg_dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.image_files import CATEGORY, CATEGORY_ID
from pseudoris.training.exports.output_files import (
    IMAGES_ARRAY,
    ByImage,
    ManyFiles,
    json_arrays,
    json_list,
    new_file,
    read_array,
    read_records,
)
from pseudoris.training.exports.read_back import Content, RisingIds, broken, check_mask, check_texts
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.refer import IMAGES_FOLDER, SPLITS, sentence_of
from pseudoris.training.exports.selected_rows import TextRule

_REFS: Final = "grefcoco/grefs(unc).json"
_INSTANCES: Final = "grefcoco/instances.json"
# What a reference of no mask has for ids.
_NONE: Final = -1


def _write(job: ExportJob) -> ExportReport:
    """Write images, references and instances image by image; then read all of it back."""
    if job.options.split not in SPLITS:
        raise ConfigError(f"--split {job.options.split!r} is not a split of gRefCOCO. Choose from {', '.join(SPLITS)}.")
    destination, ref_ids = job.destination, count(1)
    job.claim("grefcoco", IMAGES_FOLDER)
    with (
        ManyFiles(destination) as files,
        new_file(destination, _REFS) as refs_file,
        new_file(destination, _INSTANCES) as instances_file,
        json_list(refs_file) as refs,
        json_arrays(instances_file, (IMAGES_ARRAY, "annotations", "categories")) as instances,
    ):
        instances["categories"].append(CATEGORY)
        for image in job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            height, width = image.size
            instances[IMAGES_ARRAY].append(
                {"id": image.number, "file_name": image.name, "height": height, "width": width}
            )
            polygons = [mask.corner_polygon() for mask in image.masks]
            for mask, (polygon, _) in zip(image.masks, polygons, strict=True):
                instances["annotations"].append(
                    {
                        "id": mask.number,
                        "image_id": image.number,
                        "category_id": CATEGORY_ID,
                        "bbox": mask.box_xywh,
                        "area": mask.area,
                        "segmentation": [polygon],
                        "iscrowd": 0,
                    }
                )
            for ref in _references(image, ref_ids, job.options.split):
                refs.append(ref)
            job.add(image.content(image.name, (counts for _, counts in polygons)))
    files.check()
    job.check(_read_back(destination), destination.uri(_REFS))
    return job.report(
        {"images": job.num_images, "references": refs.num_elements, "expressions": job.written.num_texts},
        {"images": files.num_files, "references": 1},
        files.size_bytes + job.sizes(_REFS, _INSTANCES),
        notes=(
            "GSVA, EVF-SAM and PixelLM read this folder as refer_seg. For ReLA link images/train2014 to "
            f"{IMAGES_FOLDER}; for GLaMM link Refer_Segm/coco_2014/train2014.",
            "A trainer that evaluates asks for the splits val, testA and testB too, and stops without them.",
            *job.encoded_anew_notes(),
        ),
        checked=(
            "every polygon fills to its mask, with its box and area; all masks and expressions equal the run's",
            "ids are plain ints; no expression is empty; every image file exists",
        ),
    )


GREFCOCO: Final = ExportFormat(
    "grefcoco",
    "references of one mask, of several and of none, as gRefCOCO has them",
    reads=frozenset({"max_tokens", "split"}),
    # GSVA and GLaMM join texts with it, and refuse one that holds it.
    takes=TextRule(is_lower_case=True, refused=("||",), with_groups=True, with_none=True),
    writer=_write,
)


def _references(image: ExportImage, ref_ids: Iterator[int], split: str) -> Iterator[dict[str, Any]]:
    """Yield the image's references: expressions of the same masks are one."""
    by_targets: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for said in image.expressions:
        by_targets.setdefault(said.targets, []).append(sentence_of(said))
    for targets, sentences in by_targets.items():
        yield {
            "ref_id": next(ref_ids),
            "ann_id": [image.masks[place].number for place in targets] or [_NONE],
            "image_id": image.number,
            "category_id": [CATEGORY_ID] * len(targets) or [_NONE],
            "split": split,
            "sent_ids": [sentence["sent_id"] for sentence in sentences],
            "file_name": image.name,
            "sentences": sentences,
        }


def _read_back(destination: RunLocation) -> Iterator[Content]:
    where = destination.uri(_INSTANCES)
    annotations = ByImage(read_array(destination, _INSTANCES, "annotations"), where)
    refs = ByImage(read_records(destination, _REFS), destination.uri(_REFS))
    image_ids, ref_ids = RisingIds(where), RisingIds(refs.where)
    for image in read_array(destination, _INSTANCES, IMAGES_ARRAY):
        size = (image["height"], image["width"])
        masks = {each["id"]: each for each in annotations.take(image_ids.check(image["id"]))}
        encodings = [
            check_mask(each, size, f"{where}, annotation {number}", is_polygon=True) for number, each in masks.items()
        ]
        said: list[tuple[int, str, tuple[int, ...]]] = []
        for ref in refs.take(image["id"]):
            place = f"{refs.where}, reference {ref_ids.check(ref['ref_id'])}"
            if ref["ann_id"] != [_NONE] and not set(ref["ann_id"]) <= masks.keys():
                raise broken(place, "it names a mask that is not of its image")
            targets = tuple(list(masks).index(number) for number in ref["ann_id"] if number != _NONE)
            texts = check_texts([each["sent"] for each in ref["sentences"]], place)
            said += [(number, text, targets) for number, text in zip(ref["sent_ids"], texts, strict=True)]
        # As they were numbered: expressions of the same masks need not stand together.
        yield Content(
            image["file_name"], size, tuple(encodings), tuple((text, found) for _, text, found in sorted(said))
        )
    annotations.check_end()
    refs.check_end()
