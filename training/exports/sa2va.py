"""Sa2VA's fine-tuning layout: an image, a few expressions, and a mask for each of them.

DEST/annotations.json        [{"image", "mask": [[uncompressed RLE], …], "text": […]}, …]
DEST/images/<file_name>      the images, upright

Source: bytedance/Sa2VA 9832e1a, projects/sa2va/datasets/sa2va_data_finetune.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport
from pseudoris.training.exports.read_back import Content
from pseudoris.training.exports.record import ExportImage
from pseudoris.training.exports.record_lists import write_records
from pseudoris.training.exports.selected_rows import TextRule
from pseudoris.workers.masks.rle import compressed_counts

# Each text of a record becomes a mask of the image's size and a turn of the conversation.
_TEXTS_A_RECORD: Final = 6


def _write(job: ExportJob) -> ExportReport:
    notes = (
        "In the trainer's config set data_root to this folder, and repeats to 1: the published one repeats each record "
        "100 times.",
        f"At most {_TEXTS_A_RECORD} expressions a record; an image of more has several. The masks of an expression's "
        "targets are united.",
    )
    return write_records(job, "annotations.json", _records, _read, notes=notes)


SA2VA: Final = ExportFormat(
    "sa2va",
    "an image with a few expressions and a mask for each, for Sa2VA's fine-tuning",
    reads=frozenset({"max_tokens"}),
    takes=TextRule(refused=("<image>",), with_groups=True),
    writer=_write,
)


def _records(image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    for first in range(0, len(image.expressions), _TEXTS_A_RECORD):
        said = image.expressions[first : first + _TEXTS_A_RECORD]
        counts, texts = [image.united(each) for each in said], [each.text for each in said]
        # In a list each: the loader refuses a compressed encoding, and adds the parts of a list.
        masks = [[{"size": list(image.size), "counts": decode_runs(each).tolist()}] for each in counts]
        kept = Content.of_pairs(image.name, image.size, counts, texts)
        yield {"image": image.name, "mask": masks, "text": texts}, kept


def _read(record: dict[str, Any]) -> Content:
    masks, texts = record["mask"], record["text"]
    height, width = masks[0][0]["size"]
    if len(masks) != len(texts):
        raise ValueError("it has not one mask for each text")
    return Content.of_pairs(
        record["image"], (height, width), [compressed_counts(each, (height, width)) for each in masks], texts
    )
