"""Ready masks for tests: SA-1B JSON, written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders.human import rle


def mask_row(mask: np.ndarray, *, predicted_iou: float = 0.9, stability_score: float = 0.97, **changes: Any) -> dict:
    """Return a mask (H, W) bool as a row of `annotations`, with the keys that SA-1B has."""
    rows, columns = np.nonzero(mask)
    x0, y0 = (int(columns.min()), int(rows.min())) if len(rows) else (0, 0)
    box = [x0, y0, int(columns.max()) + 1 - x0, int(rows.max()) + 1 - y0] if len(rows) else [0, 0, 0, 0]
    height, width = mask.shape
    known = {"id": 1, "area": int(mask.sum()), "bbox": box, "crop_box": [0, 0, width, height], "point_coords": [[1, 1]]}
    scores = {"predicted_iou": predicted_iou, "stability_score": stability_score}
    return {**known, "segmentation": rle(mask), **scores, **changes}


def sa1b(rows: Iterable[Mapping[str, Any]], size: tuple[int, int], file_name: str = "a.jpg") -> dict[str, Any]:
    image = {"image_id": 1, "height": size[0], "width": size[1], "file_name": file_name}
    return {"image": image, "annotations": list(rows)}


def write_sa1b(path: Path, rows: Iterable[Mapping[str, Any]], size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sa1b(rows, size)))
    return path
