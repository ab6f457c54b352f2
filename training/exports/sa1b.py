"""SA-1B's layout: each image next to a JSON of its masks, in folders of ten thousand.

DEST/sa_000000/sa_1.jpg       the image, upright (.png where the run's image is a PNG)
DEST/sa_000000/sa_1.json      {"image": …, "annotations": […]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.schemas.untrusted import parse_json, printable_json
from pseudoris.store.location import RunLocation
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.output_files import ManyFiles, read_ahead
from pseudoris.training.exports.read_back import Content, RisingIds, broken, check_mask, check_texts
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.selected_rows import TextRule

# SA-1B itself has about eleven thousand; file systems and listings slow down far above.
IMAGES_A_FOLDER: Final = 10_000


def _write(job: ExportJob) -> ExportReport:
    """Write image by image, then read every JSON back."""
    job.claim(numbered=_folder_name)
    num_unscored = 0
    with ManyFiles(job.destination) as files:
        for image in job.images():
            # As in SA-1B the name is the id: what key the image has is found by `source_image_id`.
            stem = f"sa_{image.number}"
            name = f"{stem}{PurePosixPath(image.name).suffix}"
            folder = _folder_name((image.number - 1) // IMAGES_A_FOLDER)
            files.write(folder, name, image.data)
            files.write(folder, f"{stem}.json", printable_json(_record(image, name)).encode())
            scores = [(mask.record.predicted_iou, mask.record.stability_score) for mask in image.masks]
            num_unscored += sum(None in pair for pair in scores)
            job.add(image.content(name))
    files.check()
    job.check(_read_back(job.destination, job.num_images), job.destination.root)
    notes = ["The tables have no prompts. point_coords is a pixel of the mask, and crop_box is the whole image."]
    if num_unscored:
        notes.append(f"{num_unscored:,} masks of a prior have no predicted_iou and stability_score; they are null.")
    return job.report(
        {"images": job.num_images, "masks": job.written.num_masks, "expressions": job.written.num_texts},
        {"images": job.num_images, "JSON": job.num_images},
        files.size_bytes,
        notes=notes,
        checked=(
            "every mask decodes to its image's size, box and area; all masks and expressions equal the run's",
            "ids are unique plain ints; no expression is empty; every image and its JSON exist",
        ),
    )


# Every mask with pixels, also one without a kept expression: SA-1B has no expressions.
SA1B: Final = ExportFormat(
    "sa1b",
    "each image with one JSON of its masks, as SA-1B has them",
    reads=frozenset({"max_tokens"}),
    takes=TextRule(keeps_bare_masks=True),
    writer=_write,
)


def _folder_name(number: int) -> str:
    return f"sa_{number:06d}"


def _record(image: ExportImage, name: str) -> dict[str, Any]:
    height, width = image.size
    return {
        "image": {
            "image_id": image.number,
            "width": width,
            "height": height,
            "file_name": name,
            "source_image_id": image.image_id,
        },
        "annotations": [
            {
                "id": mask.number,
                "segmentation": mask.rle,
                "bbox": mask.box_xywh,
                "area": mask.area,
                "predicted_iou": mask.record.predicted_iou,
                "stability_score": mask.record.stability_score,
                "crop_box": [0, 0, width, height],
                "point_coords": [mask.point_within()],
                "expressions": [each.text for each in said],
            }
            for mask, said in image.masks_with_texts()
        ],
    }


def _read_back(destination: RunLocation, num_images: int) -> Iterator[Content]:
    ids = RisingIds(destination.root)
    paths = (f"{_folder_name(n // IMAGES_A_FOLDER)}/sa_{n + 1}.json" for n in range(num_images))
    for number, (path, data) in enumerate(read_ahead(destination, paths), 1):
        where = destination.uri(path)
        try:
            record = parse_json(data)
            image, annotations = record["image"], record["annotations"]
        except (ValueError, LookupError, TypeError) as error:
            raise broken(where, f"it is not the JSON of an image ({error})") from error
        if image["image_id"] != number:
            raise broken(where, f"it belongs to image {image['image_id']}")
        size = (image["height"], image["width"])
        encodings, texts = [], []
        for at, annotation in enumerate(annotations):
            place = f"{where}, annotation {ids.check(annotation['id'])}"
            encodings.append(check_mask(annotation, size, place))
            texts += [(text, (at,)) for text in check_texts(annotation["expressions"], place)]
        yield Content(image["file_name"], size, tuple(encodings), tuple(texts))
