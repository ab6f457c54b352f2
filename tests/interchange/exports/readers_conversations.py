"""Readers of grounding conversations and of ODVG lines, from the loaders' sources: they import nothing of ours.

ms-swift 4.6.0: `RowPreprocessor._check_objects` and `_check_messages` (dataset/preprocessor/core.py), `replace_ref`,
`replace_bbox` and `normalize_bbox` of `Template` (template/base.py, template/templates/qwen.py). LLaMA-Factory 0.9.5:
data/parser.py, `SharegptDatasetConverter` (data/converter.py), `_validate_messages` (data/mm_plugin.py). Qwen3-VL
9658872: `_build_messages` (qwen-vl-finetune/qwenvl/data/data_processor.py). mmdet 3.3.0:
`ODVGDataset`, `RandomSamplingNegPos`.

Each of the conversations yields (image's path, question, answer) as the model is given them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

Turn = tuple[Path, str, str]


def read_swift(root: Path) -> Iterator[Turn]:
    """Read as a Qwen3-VL template does: boxes in thousandths, without QWENVL_BBOX_FORMAT in brackets of their own."""
    for line in (root / "annotations.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        (image,) = row["images"]
        objects = row["objects"]
        assert objects.get("bbox_type", "real") == "real"
        for box in objects["bbox"]:
            assert len(box) in (2, 4)
            # Swapped in silence.
            assert box[0] <= box[2]
            assert box[1] <= box[3]
        assert user["content"].count("<image>") == 1
        with Image.open(root / image) as opened:
            width, height = opened.size
        refs, boxes = iter(objects["ref"]), iter(objects["bbox"])

        def ref(_: re.Match, refs=refs) -> str:
            return next(refs)

        def thousandths(_: re.Match, boxes=boxes, sides=(width, height) * 2) -> str:
            return str([round(edge / side * 1000) for edge, side in zip(next(boxes), sides, strict=True)])

        # Over the whole conversation, each kind by itself.
        whole = "\0".join((user["content"], assistant["content"]))
        whole = re.sub("<bbox>", thousandths, re.sub("<ref-object>", ref, whole))
        # A surplus one would be forgotten.
        assert [*refs, *boxes] == []
        question, answer = whole.split("\0")
        yield root / image, question.removeprefix("<image>"), answer


def read_factory(root: Path, name: str = "pseudoris") -> Iterator[Turn]:
    entry = json.loads((root / "dataset_info.json").read_text("utf-8"))[name]
    assert entry["formatting"] == "sharegpt"
    tags = entry["tags"]
    roles = {tags["user_tag"]: 0, tags["assistant_tag"]: 1}
    for row in json.loads((root / entry["file_name"]).read_text("utf-8")):
        messages = row[entry["columns"]["messages"]]
        # Pairs of a user's turn and an assistant's; an odd one out is skipped with a warning.
        assert [roles[each[tags["role_tag"]]] for each in messages] == [0, 1]
        texts = [each[tags["content_tag"]] for each in messages]
        (image,) = row[entry["columns"]["images"]]
        if sum(text.count("<image>") for text in texts) != 1:
            raise ValueError("The number of images does not match the number of <image> tokens")
        yield root / image, texts[0].removeprefix("<image>"), texts[1]


def read_qwen(root: Path) -> Iterator[Turn]:
    for row in json.loads((root / "annotations.json").read_text("utf-8")):
        images = [row["image"]] if isinstance(row["image"], str) else row["image"]
        pool, turns = [root / each for each in images], []
        for turn in row["conversations"]:
            if turn["from"] != "human":
                turns.append(turn["value"])
                continue
            text = []
            for part in re.split("(<image>|<video>)", turn["value"]):
                if part == "<image>":
                    if not pool:
                        raise ValueError("Number of <image> placeholders exceeds the number of provided images")
                    opened = pool.pop(0)
                elif part.strip():
                    text.append(part.strip())
            turns.append("".join(text))
        assert not pool
        yield opened, *turns


def read_odvg(root: Path) -> Iterator[tuple[Path, str, list[list[float]]]]:
    """Yield the image's path, the caption that the model is given, and the boxes of the phrase that is all of it."""
    for line in (root / "annotations.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        grounding = row["grounding"]
        caption = grounding["caption"].lower().strip()
        if not caption.endswith("."):
            caption += ". "
        boxes = []
        for region in grounding["regions"]:
            found = region["bbox"] if isinstance(region["bbox"][0], list) else [region["bbox"]]
            for x0, y0, x1, y1 in found:
                width = max(0, min(x1, row["width"]) - max(x0, 0))
                height = max(0, min(y1, row["height"]) - max(y0, 0))
                if width * height > 0 and x1 - x0 >= 1 and y1 - y0 >= 1:
                    boxes.append([x0, y0, x1, y1])
            # The spans are of the caption as it was written.
            ((start, end),) = region["tokens_positive"]
            assert caption[start:end] == region["phrase"]
        yield root / "images" / row["filename"], caption.removesuffix(". "), boxes
