"""SA-1B's layout: each image next to a JSON of its masks, in folders of ten thousand.

DEST/sa_000000/sa_1.jpg       the image, upright (.png where the run's image is a PNG)
DEST/sa_000000/sa_1.json      {"image": …, "annotations": […]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.printable import printable_json
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.store.tables.run_lengths import decode_runs
from pseudoris.training.exports.destination import claim_numbered_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import box_xywh, iter_image_files, rle_of
from pseudoris.training.exports.output_files import (
    Fingerprint,
    ManyFiles,
    RisingIds,
    broken,
    check_mask,
    check_texts,
    read_ahead,
)
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import TextRule

NAME: Final = "sa1b"
# SA-1B itself has about eleven thousand; file systems and listings slow down far above.
IMAGES_A_FOLDER: Final = 10_000
_PROGRESS_EVERY: Final = 100


class Sa1bExport:
    """Every mask with pixels, also one without a kept expression: SA-1B has no expressions."""

    summary = "each image with one JSON of its masks, as SA-1B has them"
    reads = frozenset({"max_tokens"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write image by image, then read every JSON back."""
        claim_numbered_destination(request, NAME, (), folder_name)
        writer = _Writer(request)
        with ManyFiles(request.destination) as files:
            writer.run(files, on_progress)
        files.check()
        found = _read_back(request.destination, writer.num_images, on_progress)
        writer.written.check_equals(found, request.destination.root)
        rows = {
            "images": writer.num_images,
            "masks": writer.written.num_masks,
            "expressions": writer.written.num_texts,
        }
        mark_whole(request, NAME, {"rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows=rows,
            files={"images": writer.num_images, "JSON": writer.num_images},
            size_bytes=files.size_bytes,
            dropped=writer.dropped,
            notes=writer.notes(),
            checked=(
                "every mask decodes to its image's size, box and area; all masks and expressions equal the run's",
                "ids are unique plain ints; no expression is empty; every image and its JSON exist",
            ),
        )


def folder_name(number: int) -> str:
    """Return a folder's name, `sa_000000`, by its number from 0."""
    return f"sa_{number:06d}"


class _Writer:
    """Images and their masks on their way into the files, numbered from 1 in the order of the plan."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._num_unscored = 0
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0

    def run(self, files: ManyFiles, on_progress: OnProgress) -> None:
        rule = TextRule(self._request.options.max_tokens)
        for image, image_file in iter_image_files(
            self._request, self.dropped, rule, on_progress, keeps_bare_masks=True
        ):
            self.num_images += 1
            # As in SA-1B the name is the id: what key the image has is found by `source_image_id`.
            stem = f"sa_{self.num_images}"
            file_name = f"{stem}{PurePosixPath(image_file.name).suffix}"
            folder = folder_name((self.num_images - 1) // IMAGES_A_FOLDER)
            files.write(folder, file_name, image_file.data)
            files.write(folder, f"{stem}.json", printable_json(self._record(image, file_name)).encode())
        if not self.num_images:
            raise nothing_left(self._request, self.dropped)

    def notes(self) -> list[str]:
        notes = ["The tables have no prompts. point_coords is a pixel of the mask, and crop_box is the whole image."]
        if self._num_unscored:
            notes.append(
                f"{self._num_unscored:,} masks of a prior have no predicted_iou and stability_score; they are null."
            )
        return notes

    def _record(self, image: AnnotatedImage, file_name: str) -> dict[str, Any]:
        record = {
            "image_id": self.num_images,
            "width": int(image.width),
            "height": int(image.height),
            "file_name": file_name,
            "source_image_id": image.image_id,
        }
        return {"image": record, "annotations": [self._annotation(image, mask, file_name) for mask in image.masks]}

    def _annotation(self, image: AnnotatedImage, mask: AnnotatedMask, file_name: str) -> dict[str, Any]:
        texts = [expression.text for expression in mask.expressions]
        self.written.add(file_name, mask.rle_size, mask.rle_counts, texts)
        self._num_unscored += None in (mask.predicted_iou, mask.stability_score)
        return {
            "id": self.written.num_masks,
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


def _read_back(destination: RunLocation, num_images: int, on_progress: OnProgress) -> Fingerprint:
    found, ids = Fingerprint(), RisingIds(destination.root)
    paths = (f"{folder_name(n // IMAGES_A_FOLDER)}/sa_{n + 1}.json" for n in range(num_images))
    for number, (path, data) in enumerate(read_ahead(destination, paths), 1):
        for file_name, size, annotation in _annotations(data, number, destination.uri(path)):
            where = f"{destination.uri(path)}, annotation {ids.check(annotation['id'])}"
            counts = check_mask(annotation, size, where)
            found.add(file_name, size, counts, check_texts(annotation["expressions"], where))
        if number % _PROGRESS_EVERY == 0 or number == num_images:
            on_progress(number, num_images, CHECKING)
    return found


def _annotations(data: bytes, number: int, where: str) -> Iterator[tuple[str, tuple[int, int], dict[str, Any]]]:
    """Yield file name, (height, width) and annotation of one image's JSON."""
    try:
        record = parse_json(data)
        image, annotations = record["image"], record["annotations"]
    except (ValueError, LookupError, TypeError) as error:
        raise broken(where, f"it is not the JSON of an image ({error})") from error
    if image["image_id"] != number:
        raise broken(where, f"it belongs to image {image['image_id']}")
    for annotation in annotations:
        yield image["file_name"], (image["height"], image["width"]), annotation
