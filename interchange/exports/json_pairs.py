"""Exports each image with its own JSON file: SA-1B's layout and ReasonSeg's. Listed in `EXPORTS` for `cli/export`.

sa1b        DEST/sa_000000/sa_1.jpg       the image, upright (.png where the run's image is a PNG)
            DEST/sa_000000/sa_1.json      {"image": …, "annotations": […]}
            DEST/splits.csv               of a run with splits: file_name, split
reasonseg   DEST/reason_seg/<dataset>/<split>/000000001.jpg      the image, once for each set of masks
            DEST/reason_seg/<dataset>/<split>/000000001.json     {"text": […], "is_sentence", "shapes": [polygons]}
            DEST/reason_seg/<dataset>/explanatory/train.json     an empty list, which the loader opens

Source of reasonseg: dvlab-research/LISA 3cb2d43, utils/{data_processing,reason_seg_dataset}.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Final

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.record import NO_SIZE, Content, written_counts
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.polygons import centre_polygons
from pseudoris.primitives.untrusted import parse_json, printable_json
from pseudoris.schemas.tables import SPLITS

# A folder has at most this many images, about as many as in SA-1B. File systems slow down far above that.
_SPLITS: Final = "splits.csv"
IMAGES_A_FOLDER: Final = 10_000


def _write_sa1b(job: ExportJob) -> ExportReport:
    job.claim(numbered=_folder_name)
    with job.new_file(_SPLITS) if job.has_splits else nullcontext() as local:
        num_unscored = _write_pairs(job, local)
    notes = ["The tables have no prompts. point_coords is a pixel of the mask, and crop_box is the whole image."]
    if num_unscored:
        notes.append(f"{num_unscored:,} masks of a prior have no predicted_iou and stability_score; they are null.")
    if job.has_splits:
        notes.append(f"{_SPLITS} has the split of each image.")
    return job.report(
        {"images": job.num_images, "masks": job.written.num_masks, "expressions": job.written.num_texts},
        {"images": job.num_images, "JSON": job.num_images},
        notes=notes,
        checked="every mask decodes to its image's size, box and area",
    )


def _write_pairs(job: ExportJob, splits: Path | None) -> int:
    """Write the images and their JSON, and the splits of the images; return how many masks have no scores."""
    num_unscored = 0
    if splits is not None:
        splits.write_text("file_name,split\n", encoding="utf-8")
    for image in job.images():
        # As in SA-1B, a file's name holds the image's id. `source_image_id` leads to the key of the image.
        stem = f"sa_{image.number}"
        name = f"{stem}{PurePosixPath(image.name).suffix}"
        folder = _folder_name((image.number - 1) // IMAGES_A_FOLDER)
        job.files.write(folder, name, image.data)
        if splits is not None:
            with splits.open("a", encoding="utf-8") as file:
                file.write(f"{folder}/{name},{image.split}\n")
        height, width = image.size
        annotations = [
            {
                "id": mask.number,
                "segmentation": mask.rle,
                **mask.measures,
                "crop_box": [0, 0, width, height],
                "point_coords": [mask.point_within()],
                "expressions": [each.text for each in said],
            }
            for mask, said in image.masks_with_texts()
        ]
        of_file = {"width": width, "height": height, "file_name": name, "source_image_id": image.image_id}
        record = {"image": {"image_id": image.number, **of_file}, "annotations": annotations}
        data = printable_json(record).encode()
        job.files.write(folder, f"{stem}.json", data)
        num_unscored += sum(None in mask.measures.values() for mask in image.masks)
        found = parse_json(data)
        measured = image.measured
        masks = [(written_counts(each, image.size, measured), each["expressions"]) for each in found["annotations"]]
        size = (found["image"]["height"], found["image"]["width"])
        job.add(image.content(name), Content.of_masks(found["image"]["file_name"], size, masks))
    return num_unscored


# The format takes all masks that have pixels, because SA-1B has no expressions.
_SA1B_TAKES: Final = TextRule(keeps_bare_masks=True)
SA1B: Final = ExportFormat("sa1b", "each image with one JSON of its masks, as SA-1B has them", _write_sa1b, _SA1B_TAKES)


def _folder_name(number: int) -> str:
    return f"sa_{number:06d}"


_REASON_FOLDER: Final = "reason_seg"


def _write_reasonseg(job: ExportJob) -> ExportReport:
    """Write a copy of the image and a JSON for each set of masks."""
    dataset, splits = job.names("ReasonSeg")
    for split in splits:
        if "_" in split:
            raise ConfigError(f"--split {split!r}: LISA takes _ for the border of two splits. Give a name without it.")
    # Those that an earlier export of the run may have are emptied too.
    named = dict.fromkeys((*splits, *(SPLITS if job.has_splits else ()), "explanatory"))
    job.claim(*(f"{_REASON_FOLDER}/{dataset}/{split}" for split in named))
    numbers = count(1)
    for image in job.images():
        folder = f"{_REASON_FOLDER}/{dataset}/{image.split}"
        for targets, said in image.by_targets().items():
            stem, texts = f"{next(numbers):09d}", [each.text for each in said]
            polygons = [each for place in targets for each in centre_polygons(image.masks[place].pixels())]
            tree = {
                "text": texts,
                "is_sentence": False,
                "shapes": [{"label": "target", "points": polygon} for polygon in polygons],
                "source_image_id": image.image_id,
            }
            # The name must end in `.jpg`, because LISA's loader lists only such files. OpenCV reads any format under
            # this name.
            job.files.write(folder, f"{stem}.jpg", image.data)
            data = printable_json(tree).encode()
            job.files.write(folder, f"{stem}.json", data)
            found = parse_json(data)
            points = [[tuple(point) for point in shape["points"]] for shape in found["shapes"]]
            job.add(
                Content.of_mask(image.image_id, NO_SIZE, polygons, texts),
                Content.of_mask(found["source_image_id"], NO_SIZE, points, found["text"]),
            )
    job.add_file(f"{_REASON_FOLDER}/{dataset}/explanatory/train.json", b"[]\n")
    num_records = next(numbers) - 1
    return job.report(
        {"images": job.num_images, "sets of masks": num_records, "expressions": job.written.num_texts},
        {"images": num_records, "sets of masks": num_records},
        notes=(
            "Give LISA this folder as --dataset_dir, --dataset reason_seg and --reason_seg_data "
            f"{dataset}|{splits[0]}.",
            "An image stands once for each set of masks that an expression refers to: a JSON has one mask.",
        ),
    )


_REASON_TAKES: Final = TextRule(refused=("<image>", "[SEG]"), with_groups=True)
_REASON_SUMMARY: Final = "an image and a JSON for each set of masks, as LISA's ReasonSeg has them"
_REASON_READS: Final = ("max_tokens", "dataset", "split")
REASONSEG: Final = ExportFormat("reasonseg", _REASON_SUMMARY, _write_reasonseg, _REASON_TAKES, _REASON_READS)
