"""SA-1B's layout: each image next to a JSON of its masks, in folders of ten thousand.

DEST/sa_000000/sa_1.jpg       the image, upright (.png where the run's image is a PNG)
DEST/sa_000000/sa_1.json      {"image": …, "annotations": […]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.schemas.untrusted import parse_json, printable_json
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport, ReadMask
from pseudoris.training.exports.image_files import box_xywh, rle_of
from pseudoris.training.exports.output_files import (
    ManyFiles,
    RisingIds,
    broken,
    check_mask,
    check_texts,
    read_ahead,
)
from pseudoris.training.exports.selected_rows import TextRule

# SA-1B itself has about eleven thousand; file systems and listings slow down far above.
IMAGES_A_FOLDER: Final = 10_000


def _write(job: ExportJob) -> ExportReport:
    """Write image by image, then read every JSON back."""
    job.claim(numbered=_folder_name)
    num_unscored = 0
    with ManyFiles(job.destination) as files:
        for image, image_file in job.images():
            # As in SA-1B the name is the id: what key the image has is found by `source_image_id`.
            stem = f"sa_{job.num_images}"
            file_name = f"{stem}{PurePosixPath(image_file.name).suffix}"
            folder = _folder_name((job.num_images - 1) // IMAGES_A_FOLDER)
            num_unscored += sum(None in (mask.predicted_iou, mask.stability_score) for mask in image.masks)
            record = {
                "image": {
                    "image_id": job.num_images,
                    "width": int(image.width),
                    "height": int(image.height),
                    "file_name": file_name,
                    "source_image_id": image.image_id,
                },
                "annotations": [_annotation(job, image, mask, file_name) for mask in image.masks],
            }
            files.write(folder, file_name, image_file.data)
            files.write(folder, f"{stem}.json", printable_json(record).encode())
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


def _annotation(job: ExportJob, image: AnnotatedImage, mask: AnnotatedMask, file_name: str) -> dict[str, Any]:
    texts = job.add(file_name, mask)
    return {
        "id": job.written.num_masks,
        "segmentation": rle_of(mask),
        "bbox": box_xywh(mask),
        "area": int(mask.area_px),
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "crop_box": [0, 0, int(image.width), int(image.height)],
        "point_coords": [point_within(mask)],
        "expressions": texts,
    }


def point_within(mask: AnnotatedMask) -> list[float]:
    """Return a pixel [x, y] of a mask with pixels: the middle of its longest run, away from the edge where it can be.

    Raises:
        ValueError: The encoding does not read.
    """
    runs = decode_runs(mask.rle_counts)
    ends = runs.cumsum()
    longest = 2 * int(runs[1::2].argmax()) + 1
    # Runs go down the columns. A run that reaches the end of a column continues at the top of the next.
    x, y = divmod(int(ends[longest] - (runs[longest] + 1) // 2), mask.rle_size[0])
    return [float(x), float(y)]


def _read_back(destination: RunLocation, num_images: int) -> Iterator[ReadMask]:
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
        for annotation in annotations:
            place = f"{where}, annotation {ids.check(annotation['id'])}"
            counts = check_mask(annotation, size, place)
            yield image["file_name"], size, counts, check_texts(annotation["expressions"], place)
