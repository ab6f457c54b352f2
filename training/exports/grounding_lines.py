"""ODVG lines, which MM-Grounding-DINO trains on: an expression a line, with the boxes of its targets.

DEST/annotations.jsonl       {"filename", "height", "width", "grounding": {"caption", "regions"}}
DEST/images/<file_name>      the images, upright

Source: mmdet 3.3.0, datasets/odvg.py. It reads no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.read_back import Content
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.record_lists import write_records
from pseudoris.training.exports.selected_rows import TextRule


def _write(job: ExportJob) -> ExportReport:
    notes = (
        'Give the trainer ann_file="annotations.jsonl" and data_prefix=dict(img="images/"), and no label_map_file.',
        "Boxes alone: masks are left out. An expression of no object has no region.",
    )
    return write_records(job, "annotations.jsonl", _records, _read, notes=notes)


ODVG: Final = ExportFormat(
    "odvg",
    "a line an expression with its boxes, for MM-Grounding-DINO",
    reads=frozenset({"max_tokens"}),
    # The loader makes captions small, and the model reads 256 tokens.
    takes=TextRule(is_lower_case=True, with_groups=True, with_none=True),
    writer=_write,
)


def _records(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    for said in image.expressions:
        boxes = [image.masks[place].box_xyxy for place in said.targets]
        # A region has one phrase, which is the whole caption, and one box or more.
        region = {"phrase": said.text, "bbox": boxes, "tokens_positive": [[0, len(said.text)]]}
        record = {
            "filename": image.name,
            "height": image.size[0],
            "width": image.size[1],
            "grounding": {"caption": said.text, "regions": [region] if boxes else []},
        }
        yield record, Content.of_expression(image.name, image.size, boxes, said.text)


def _read(record: dict[str, Any]) -> Content:
    grounding = record["grounding"]
    text, regions = grounding["caption"], grounding["regions"]
    if any((region["phrase"], region["tokens_positive"]) != (text, [[0, len(text)]]) for region in regions):
        raise ValueError("a region has another phrase than its caption")
    boxes = [box for region in regions for box in region["bbox"]]
    return Content.of_expression(record["filename"], (record["height"], record["width"]), boxes, text)
