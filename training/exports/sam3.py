"""SAM 3's fine-tuning: COCO, in which the name of a category is a text query.

DEST/annotations.json            images, an annotation a target of an expression, a category a text
DEST/images/<file_name>          the images, upright
DEST/per_image_queries.py        the loader class that asks each image for its own expressions alone

Source: facebookresearch/sam3 99d02f2, sam3/train/data/{coco_json_loaders,sam3_image_dataset}.py. A text names all
targets that any mask has it for: SAM 3 takes every query as exhaustive.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files as package_files
from typing import Final

from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.output_files import (
    IMAGES_ARRAY,
    ByImage,
    JsonArray,
    ManyFiles,
    json_arrays,
    new_file,
    read_array,
)
from pseudoris.training.exports.read_back import Content, RisingIds, broken, check_mask
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.record_lists import IMAGES_FOLDER
from pseudoris.training.exports.selected_rows import TextRule

_PATH: Final = "annotations.json"
_LOADER: Final = "per_image_queries.py"


def _write(job: ExportJob) -> ExportReport:
    """Write image by image. Memory holds every distinct text, as the trainer does."""
    job.claim(IMAGES_FOLDER)
    texts: dict[str, int] = {}
    with (
        ManyFiles(job.destination) as files,
        new_file(job.destination, _PATH) as path,
        json_arrays(path, (IMAGES_ARRAY, "annotations", "categories")) as arrays,
    ):
        for image in job.images():
            files.write(IMAGES_FOLDER, image.name, image.data)
            job.add(_add(image, arrays, texts))
    files.check()
    loader = (package_files("pseudoris.training.exports") / "templates" / f"{_LOADER}.j2").read_bytes()
    job.destination.replace(_LOADER, loader)
    job.check(_read_back(job.destination, list(texts)), job.destination.uri(_PATH))
    return job.report(
        {"images": job.num_images, "queries": len(texts), "annotations": job.written.num_masks},
        {"images": files.num_files, "queries": 1},
        files.size_bytes + job.sizes(_PATH, _LOADER),
        notes=(
            f"In the training's config give ann_file {_PATH}, img_folder images, and as coco_json_loader "
            f"per_image_queries.PerImageQueries with _partial_: true, with this folder on PYTHONPATH. By itself the "
            "loader asks every text of every image, and refuses images of more than 81.",
            "The published config stops after 100 images (limit_ids) and trains without masks (enable_segmentation).",
            *job.encoded_anew_notes(),
        ),
        checked=(
            "every mask decodes to its image's size, box and area; all masks and expressions equal the run's",
            "ids are unique plain ints; no expression is empty; every image file exists",
        ),
    )


SAM3: Final = ExportFormat(
    "sam3",
    "COCO with an expression a category, and its loader class, for SAM 3's fine-tuning",
    reads=frozenset({"max_tokens"}),
    # The model's texts have 32 tokens.
    takes=TextRule(max_tokens=32, with_groups=True, with_none=True),
    writer=_write,
)


def _add(image: ExportImage, arrays: dict[str, JsonArray], texts: dict[str, int]) -> Content:
    """Add an image, its annotations, and its texts, numbered from 1; return what is kept of it."""
    targets: dict[str, list[int]] = {}
    for each in image.expressions:
        found = targets.setdefault(each.text, [])
        found += [place for place in each.targets if place not in found]
    masks: list[str] = []
    said = []
    for text, places in targets.items():
        if text not in texts:
            texts[text] = len(texts) + 1
            arrays["categories"].append({"id": texts[text], "name": text})
        said.append((text, tuple(range(len(masks), len(masks) + len(places)))))
        for mask in (image.masks[place] for place in places):
            masks.append(mask.record.rle_counts)
            arrays["annotations"].append(
                {
                    "id": arrays["annotations"].num_elements + 1,
                    "image_id": image.number,
                    "category_id": texts[text],
                    "bbox": mask.box_xywh,
                    "area": mask.area,
                    "iscrowd": 0,
                    "segmentation": mask.rle,
                }
            )
    record = {"id": image.number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
    negative = [texts[text] for text, places in targets.items() if not places]
    arrays[IMAGES_ARRAY].append({**record, "negative_category_ids": negative})
    return Content(image.name, image.size, tuple(masks), tuple(said))


def _read_back(destination: RunLocation, texts: list[str]) -> Iterator[Content]:
    where = destination.uri(_PATH)
    if [each["name"] for each in read_array(destination, _PATH, "categories")] != texts:
        raise broken(where, "its categories are others than the texts")
    annotations = ByImage(read_array(destination, _PATH, "annotations"), where)
    image_ids, ids = RisingIds(where), RisingIds(where)
    for image in read_array(destination, _PATH, IMAGES_ARRAY):
        size = (image["height"], image["width"])
        of_image = annotations.take(image_ids.check(image["id"]))
        masks = tuple(check_mask(each, size, f"{where}, annotation {ids.check(each['id'])}") for each in of_image)
        places: dict[int, list[int]] = {}
        for place, each in enumerate(of_image):
            places.setdefault(each["category_id"], []).append(place)
        places.update((each, []) for each in image["negative_category_ids"])
        said = tuple((texts[number - 1], tuple(found)) for number, found in places.items())
        yield Content(image["file_name"], size, masks, said)
    annotations.check_end()
