"""Formats of one list of records beside images. Listed in `EXPORTS` for `cli/export`; `conversations` uses its parts.

odvg      DEST/annotations.jsonl     {"filename", "height", "width", "grounding": {"caption", "regions"}}
sa2va     DEST/annotations.json      [{"image", "mask": [[uncompressed RLE], …], "text": […]}, …]
label-studio  DEST/tasks.json        a task per image, for people to correct: a region per mask, with its expressions
              DEST/config.xml        the labelling interface that the tasks need
all       DEST/images/<file_name>    the images, upright

Their readers must open the files as they are. Sources: mmdet 3.3.0, datasets/odvg.py; bytedance/Sa2VA
9832e1a, projects/sa2va/datasets/sa2va_data_finetune.py; label-studio-sdk 2.1.2, label_interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.interchange.brush_strokes import brush_strokes, values_of_strokes
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.record import Content, ExportImage, broken
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.primitives.rle import canonical_counts, compressed_counts
from pseudoris.primitives.run_lengths import decode_runs

IMAGES_FOLDER: Final = "images"


def write_records(
    job: ExportJob,
    path: str,
    records_of: Callable[[ExportImage], Iterable[tuple[dict[str, Any], Content]]],
    read: Callable[[Any], Content],
    *,
    notes: Iterable[str],
    others: dict[str, bytes] | None = None,
) -> ExportReport:
    """Write images and records as they come.

    The list at `path`, one a split, has one record per line if its name ends in `.jsonl`. `records_of` returns the
    records of an image, plain values, each with its content; `read` the content of a written record. `others` are
    further small files, by path.
    """
    job.claim(IMAGES_FOLDER)
    paths, num_records = job.paths(path), 0
    for split, file in paths.items():
        with job.records(file) as records:
            for image in job.images(IMAGES_FOLDER, split):
                for record, kept in records_of(image):
                    written = records.append(record)
                    try:
                        found = read(written)
                    except (LookupError, TypeError, ValueError) as error:
                        where = f"{job.destination.uri(file)}, record {records.num_elements}"
                        raise broken(where, str(error)) from error
                    job.add(kept, found)
            num_records += records.num_elements
    # They may tell of the records, so they are asked for last.
    notes = list(notes)
    if len(paths) > 1:
        first = next(iter(paths.values()))
        notes = [*(note.replace(path, first) for note in notes), f"Each split has a file: {', '.join(paths.values())}."]
    for file, data in (others or {}).items():
        job.add_file(file, data)
    return job.report(
        {"images": job.num_images, "records": num_records, "expressions": job.written.num_texts},
        {"images": job.files.num_files, "records": len(paths)},
        notes=notes,
    )


def _write_odvg(job: ExportJob) -> ExportReport:
    notes = (
        'Give the trainer ann_file="annotations.jsonl" and data_prefix=dict(img="images/"), and no label_map_file.',
        "Boxes alone: masks are left out. The model reads 256 tokens.",
    )
    num_stops = 0

    def records(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
        nonlocal num_stops
        num_stops += sum("." in said.text.rstrip(" .") for said in image.expressions)
        return _odvg_records(image)

    def told() -> Iterator[str]:
        yield from notes
        if num_stops:
            yield (
                f"{num_stops:,} expression(s) have a full stop inside. The models divide a text there: words before it "
                "do not see those behind."
            )

    return write_records(job, "annotations.jsonl", records, _read_odvg, notes=told())


# The loader turns captions into small letters. Open-GroundingDINO stops at a line without a region, and takes several
# boxes of a region for as many regions, with one label (longzw1997/Open-GroundingDINO, datasets/odvg.py).
_ODVG_TAKES: Final = TextRule(is_lower_case=True)
_ODVG_SUMMARY: Final = "a line an expression with its box, for MM-Grounding-DINO and Open-GroundingDINO"
ODVG: Final = ExportFormat("odvg", _ODVG_SUMMARY, _write_odvg, _ODVG_TAKES, ("max_tokens", "any_targets"))


def _odvg_records(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    for said in image.expressions:
        boxes = [image.masks[place].box_xyxy for place in said.targets]
        # All targets are one region, whose phrase is the whole caption. An expression without a target has no region.
        region = {"phrase": said.text, "bbox": boxes, "tokens_positive": [[0, len(said.text)]]}
        record = {
            "filename": image.name,
            "height": image.size[0],
            "width": image.size[1],
            "grounding": {"caption": said.text, "regions": [region] if boxes else []},
        }
        yield record, Content.of_expression(image.name, image.size, boxes, said.text)


def _read_odvg(record: dict[str, Any]) -> Content:
    grounding = record["grounding"]
    text, regions = grounding["caption"], grounding["regions"]
    if any((region["phrase"], region["tokens_positive"]) != (text, [[0, len(text)]]) for region in regions):
        raise ValueError("a region has another phrase than its caption")
    boxes = [box for region in regions for box in region["bbox"]]
    return Content.of_expression(record["filename"], (record["height"], record["width"]), boxes, text)


# A record has at most this many texts, because for each text the trainer makes a mask and a turn of a conversation.
_TEXTS_A_RECORD: Final = 6


def _write_sa2va(job: ExportJob) -> ExportReport:
    notes = (
        "In the trainer's config set data_root to this folder, and repeats to 1: the published one repeats each record "
        "100 times.",
        f"At most {_TEXTS_A_RECORD} expressions a record; an image of more has several. The masks of an expression's "
        "targets are united. The published max_length is 8,192 tokens.",
    )
    return write_records(job, "annotations.json", _sa2va_records, _read_sa2va, notes=notes)


_SA2VA_TAKES: Final = TextRule(refused=("<image>", "[SEG]"), with_groups=True)
_SA2VA_SUMMARY: Final = "an image with a few expressions and a mask for each, for Sa2VA's fine-tuning"
SA2VA: Final = ExportFormat("sa2va", _SA2VA_SUMMARY, _write_sa2va, _SA2VA_TAKES)


def _sa2va_records(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    for first in range(0, len(image.expressions), _TEXTS_A_RECORD):
        said = image.expressions[first : first + _TEXTS_A_RECORD]
        counts, texts = [image.united(each) for each in said], [each.text for each in said]
        # Each mask is one part with plain counts, because the loader adds up parts and refuses compressed counts.
        masks = [[{"size": list(image.size), "counts": decode_runs(each).tolist()}] for each in counts]
        kept = Content.of_masks(
            image.name, image.size, [(mask, [text]) for mask, text in zip(counts, texts, strict=True)]
        )
        yield {"image": image.name, "mask": masks, "text": texts}, kept


def _read_sa2va(record: dict[str, Any]) -> Content:
    masks, texts = record["mask"], record["text"]
    height, width = masks[0][0]["size"]
    if len(masks) != len(texts):
        raise ValueError("it has not one mask for each text")
    pairs = [(compressed_counts(mask, (height, width)), [text]) for mask, text in zip(masks, texts, strict=True)]
    return Content.of_masks(record["image"], (height, width), pairs)


_CONFIG: Final = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="object"/></BrushLabels>
  <TextArea name="text" toName="image" perRegion="true" editable="true"/>
  <TextArea name="absent" toName="image" editable="true"/>
</View>
"""
_URL: Final = f"/data/local-files/?d={IMAGES_FOLDER}/"


def pixels_of_strokes(strokes: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of `brush_strokes`' bytes; a ValueError if they are not those of an image of that size."""
    values = values_of_strokes(strokes, size)
    if not (values == 255 * (values[..., :1] > 0)).all():
        raise ValueError("the strokes have other values than 0 and 255")
    return np.asarray(values[..., 0] > 0)


def _write_label_studio(job: ExportJob) -> ExportReport:
    notes = (
        "Start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to this folder. Give the project the interface of config.xml, and "
        "the folder images as local storage. Then import tasks.json.",
        "The masks are predictions: an annotator accepts or corrects them.",
    )
    return write_records(job, "tasks.json", _tasks, _read_task, notes=notes, others={"config.xml": _CONFIG.encode()})


_STUDIO_TAKES: Final = TextRule(keeps_bare_masks=True, with_none=True)
_STUDIO_SUMMARY: Final = "tasks with the masks as brush strokes and their expressions, for Label Studio"
LABEL_STUDIO: Final = ExportFormat(
    "label-studio", _STUDIO_SUMMARY, _write_label_studio, _STUDIO_TAKES, has_one_split=True
)


def _tasks(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    height, width = image.size
    shared = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    regions: list[dict[str, Any]] = []
    counts = []
    for mask, said in image.masks_with_texts():
        pixels = mask.pixels()
        counts.append(canonical_counts(pixels))
        stroke = {"format": "rle", "rle": brush_strokes(pixels), "brushlabels": ["object"]}
        region = {"id": mask.record.mask_id, **shared}
        regions.append({**region, "from_name": "mask", "type": "brushlabels", "value": stroke})
        # Label Studio holds a region's texts in a second result that has the region's id.
        if said:
            value = {"text": [each.text for each in said]}
            regions.append({**region, "from_name": "text", "type": "textarea", "value": value})
    if absent := [each.text for each in image.expressions if not each.targets]:
        value = {"text": absent}
        regions.append({"id": "absent", **shared, "from_name": "absent", "type": "textarea", "value": value})
    task = {
        "data": {"image": f"{_URL}{image.name}"},
        "predictions": [{"model_version": "pseudoris", "result": regions}],
    }
    yield task, image.content(image.name, counts)


def _read_task(task: dict[str, Any]) -> Content:
    (prediction,) = task["predictions"]
    counts: list[str] = []
    places: dict[str, tuple[int, ...]] = {"absent": ()}
    texts: list[tuple[str, tuple[int, ...]]] = []
    size = (0, 0)
    for region in prediction["result"]:
        size, value = (region["original_height"], region["original_width"]), region["value"]
        if region["from_name"] == "mask":
            places[region["id"]] = (len(counts),)
            counts.append(canonical_counts(pixels_of_strokes(value["rle"], size)))
        else:
            texts += [(text, places[region["id"]]) for text in value["text"]]
    return Content(task["data"]["image"].removeprefix(_URL), size, tuple(counts), tuple(texts))
