"""A reader of ODVG lines, from `ODVGDataset` and `RandomSamplingNegPos` of mmdet 3.3.0: it imports nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


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
