"""Exports grounding as conversations for VLMs, one question per expression. Listed in `EXPORTS` for `cli/export`.

DEST/annotations.jsonl or .json     a record per expression, in the envelope of the trainer
DEST/images/<file_name>             the images, upright
DEST/dataset_info.json              llamafactory: the entry of its registry

The answer is a JSON list of {"bbox_2d": [x0, y0, x1, y1], "label": expression}, one for each target; `[]` if the
expression refers to nothing. Boxes must be in the frame that the trainer reads; none of these trainers reads masks.
Sources: ms-swift 4.6.0, dataset/preprocessor/core.py and template/base.py; llamafactory 0.9.5,
data/{parser,converter,mm_plugin}.py; QwenLM/Qwen3-VL 9658872, qwenvl/data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil, floor, sqrt
from typing import Any, Final

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportOptions, ExportReport
from pseudoris.interchange.exports.record import NO_SIZE, Content, ExportImage
from pseudoris.interchange.exports.record_lists import IMAGES_FOLDER, write_records
from pseudoris.interchange.exports.selected_rows import TextRule
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json

# Texts with these markers are left out, because the trainers replace the markers or read them as special tokens.
_REFUSED: Final = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<start-image>", "<cot-process>", "<|")
# Images with a ratio of sides above 200 are left out, because Qwen's processors raise an error for them.
_TAKES: Final = TextRule(refused=_REFUSED, with_groups=True, with_none=True, max_side_ratio=200)
_QUESTION: Final = ("Locate ", ", and list the box of everything that it refers to.")
_NORM: Final = 1000
# The processors of Qwen2-VL and Qwen2.5-VL scale an image to an area in pixels between these two.
_PROCESSOR_PIXELS: Final = (56 * 56, 28 * 28 * 16384)

Size = tuple[int, int]
# The function returns the (height, width) of an image in the frame of the exported coordinates.
_Frame = Callable[[Size], Size]
# The function makes a record from the name of an image's file, a text, and the boxes of the text's targets.
_Wrap = Callable[[str, str, list[list[int]]], dict[str, Any]]


def qwen_size(size: Size, factor: int, limits: Size) -> Size:
    """Return the (height, width) to which Qwen's processors resize an image of `size` pixels (`smart_resize`).

    Both sides become multiples of `factor`: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL. `limits` are the smallest
    and the largest area.
    """
    height, width = size
    lowest, highest = limits
    rounded = [max(factor, round(side / factor) * factor) for side in size]
    if rounded[0] * rounded[1] > highest:
        scale = sqrt(height * width / highest)
        rounded = [max(factor, floor(side / scale / factor) * factor) for side in size]
    elif rounded[0] * rounded[1] < lowest:
        scale = sqrt(lowest / (height * width))
        rounded = [ceil(side * scale / factor) * factor for side in size]
    return rounded[0], rounded[1]


def factory_size(size: Size, factor: int, limits: Size) -> Size:
    """Return the size to which LLaMA-Factory resizes: into the limits, cut to whole pixels, and then as Qwen does."""
    area, (lowest, highest) = size[0] * size[1], limits
    scale = sqrt(highest / area) if area > highest else sqrt(lowest / area) if area < lowest else 1.0
    return qwen_size((int(size[0] * scale), int(size[1] * scale)), factor, _PROCESSOR_PIXELS)


def _frame(options: ExportOptions, resized: Callable[[Size, int, Size], Size]) -> _Frame:
    """Return the frame that `--coordinates` names; a ConfigError without the limits that it needs."""
    coordinates = options.coordinates or "norm1000"
    factor, lowest, highest = options.resize_factor, options.min_pixels, options.max_pixels
    if coordinates == "resized":
        if factor is None or lowest is None or highest is None or lowest > highest:
            raise ConfigError(
                "--coordinates resized needs --resize-factor (28 for Qwen2.5-VL), --min-pixels and --max-pixels, those "
                "that the trainer is given: it resizes each image by them, and so its boxes."
            )
        return lambda size: resized(size, factor, (lowest, highest))
    if (factor, lowest, highest) != (None, None, None):
        raise ConfigError("--resize-factor, --min-pixels and --max-pixels belong to --coordinates resized.")
    if coordinates not in ("norm1000", "real"):
        raise ConfigError(f"--coordinates {coordinates!r} is not norm1000, real or resized.")
    return (lambda size: size) if coordinates == "real" else (lambda size: (_NORM, _NORM))


def _records(frame: _Frame, wrap: _Wrap, image: ExportImage) -> Iterator[tuple[dict[str, Any], Content]]:
    scales = [new / old for new, old in zip(frame(image.size), image.size, strict=True)][::-1] * 2
    path = f"{IMAGES_FOLDER}/{image.name}"
    for said in image.expressions:
        edges = [zip(image.masks[place].box_xyxy, scales, strict=True) for place in said.targets]
        boxes = [[round(edge * scale) for edge, scale in each] for each in edges]
        yield wrap(path, said.text, boxes), Content.of_expression(path, NO_SIZE, boxes, said.text)


def _answer(text: str, boxes: Sequence[list[int]]) -> str:
    return json.dumps([{"bbox_2d": box, "label": text} for box in boxes], ensure_ascii=False)


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]


def _swift_record(path: str, text: str, boxes: list[list[int]]) -> dict[str, Any]:
    # The loader replaces each placeholder by the next item of its list, also within the JSON of the answer.
    answer = ", ".join(['{"bbox_2d": <bbox>, "label": "<ref-object>"}'] * len(boxes))
    refs = [text, *[json.dumps(text, ensure_ascii=False)[1:-1]] * len(boxes)]
    messages = _messages("<ref-object>".join(_QUESTION), f"[{answer}]")
    return {"messages": messages, "images": [path], "objects": {"ref": refs, "bbox": boxes}}


def _factory_record(path: str, text: str, boxes: list[list[int]]) -> dict[str, Any]:
    return {"messages": _messages(text.join(_QUESTION), _answer(text, boxes)), "images": [path]}


def _qwen_record(path: str, text: str, boxes: list[list[int]]) -> dict[str, Any]:
    question = {"from": "human", "value": f"<image>\n{text.join(_QUESTION)}"}
    return {"image": path, "conversations": [question, {"from": "gpt", "value": _answer(text, boxes)}]}


def _read(wrap: _Wrap, record: Mapping[str, Any]) -> Content:
    """Return a record's content; ValueError if wrapping its text and boxes again gives another record."""
    path = record["images"][0] if "images" in record else record["image"]
    if "objects" in record:
        text, boxes = record["objects"]["ref"][0], record["objects"]["bbox"]
    else:
        turns = [turn.get("content") or turn["value"] for turn in record.get("messages") or record["conversations"]]
        text = turns[0].removeprefix("<image>").strip().removeprefix(_QUESTION[0]).removesuffix(_QUESTION[1])
        boxes = [each["bbox_2d"] for each in parse_json(turns[1].encode())]
    if record != wrap(path, text, boxes):
        raise ValueError("its turns do not have its text and its boxes")
    return Content.of_expression(path, NO_SIZE, boxes, text)


def _coordinates_note(options: ExportOptions, flags: tuple[str, str]) -> str:
    if options.coordinates in (None, "norm1000"):
        return "Boxes are in thousandths of the image's sides, as Qwen2-VL, Qwen3-VL and InternVL have them."
    if options.coordinates == "real":
        return "Boxes are in pixels of the image as it is: the trainer must not resize it."
    return (
        "Boxes are in pixels of the image as the trainer resizes it, as Qwen2.5-VL has them. They are right only with "
        f"{flags[0]}={options.min_pixels} and {flags[1]}={options.max_pixels}."
    )


def _write_swift(job: ExportJob) -> ExportReport:
    notes = (
        "Train in this folder, or set ROOT_IMAGE_DIR to it: --dataset annotations.jsonl --strict true. Without strict "
        "rows that fail are left out with a line in the log.",
        "Boxes are in pixels: the template scales them. For the JSON style of Qwen's cookbook set "
        "QWENVL_BBOX_FORMAT=new.",
    )
    records_of = partial(_records, lambda size: size, _swift_record)
    return write_records(job, "annotations.jsonl", records_of, partial(_read, _swift_record), notes=notes)


def _write_factory(job: ExportJob) -> ExportReport:
    frame, path = _frame(job.options, factory_size), "annotations.json"
    name = job.options.dataset or "pseudoris"
    if "," in name or not name.strip():
        raise ConfigError(f"--dataset {name!r} cannot be a dataset's name: LLaMA-Factory splits names at commas.")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    said = {"columns": {"messages": "messages", "images": "images"}, "tags": tags}
    files = {name if len(job.splits) == 1 else f"{name}_{split}": file for split, file in job.paths(path).items()}
    registry = {each: {"file_name": file, "formatting": "sharegpt", **said} for each, file in files.items()}
    notes = (
        f"Give the trainer dataset_dir: this folder, and dataset: {next(iter(files))}. Its default cutoff_len is 2,048 "
        "tokens.",
        _coordinates_note(job.options, ("image_min_pixels", "image_max_pixels")),
    )
    registered = {"dataset_info.json": json.dumps(registry, indent=2).encode() + b"\n"}
    records_of, read = partial(_records, frame, _factory_record), partial(_read, _factory_record)
    return write_records(job, path, records_of, read, notes=notes, others=registered)


def _write_qwen(job: ExportJob) -> ExportReport:
    frame, path = _frame(job.options, qwen_size), "annotations.json"
    notes = (
        "Enter into data_dict of qwenvl/data/__init__.py: annotation_path: this folder's annotations.json, data_path: "
        "this folder. Set model_max_length: the default of 512 cuts what one image needs.",
        _coordinates_note(job.options, ("--min_pixels", "--max_pixels")),
    )
    records_of, read = partial(_records, frame, _qwen_record), partial(_read, _qwen_record)
    return write_records(job, path, records_of, read, notes=notes)


_READS: Final = ("max_tokens", "coordinates", "resize_factor", "min_pixels", "max_pixels")
SWIFT: Final = ExportFormat("ms-swift", "questions with boxes as answers, for ms-swift", _write_swift, _TAKES)
FACTORY: Final = ExportFormat(
    "llamafactory", "the same for LLaMA-Factory", _write_factory, _TAKES, (*_READS, "dataset")
)
QWEN: Final = ExportFormat("qwen", "the same for Qwen's own finetuning script", _write_qwen, _TAKES, _READS)
