"""A simulated annotator of Label Studio: takes an export's tasks, and gives the project back as it exports JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Result = dict[str, Any]
Results = list[Result]


def read_tasks(export: Path) -> list[dict[str, Any]]:
    return json.loads((export / "tasks.json").read_text("utf-8"))


def annotation(results: Results, number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return an annotation with the fields that Label Studio gives it."""
    when = "2026-11-27T10:00:00.000000Z"
    whole = {"id": number, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False}
    return {**whole, "created_at": when, "updated_at": when, "lead_time": 4.2, **fields}


def submitted(task: dict[str, Any], change: Callable[[Results], object] = lambda results: None) -> dict[str, Any]:
    """Return the task with an annotation: the prediction, with what `change` does to it in place."""
    results = json.loads(json.dumps(task["predictions"][0]["result"]))
    change(results)
    return {**task, "predictions": [], "annotations": [annotation(results)]}


def mask_of(results: Results, number: int) -> Result:
    return [each for each in results if each["from_name"] == "mask"][number]


def texts_of(results: Results, region: str) -> list[str]:
    (found,) = [each["value"]["text"] for each in results if each["from_name"] == "text" and each["id"] == region]
    return found


def deleted(results: Results, region: str) -> None:
    results[:] = [each for each in results if each["id"] != region]


def spelt_strokes(pixels: np.ndarray) -> list[int]:
    """Return a mask as strokes without a run: every byte is spelt out, with soft values at the brush's edge."""
    values = np.repeat(np.where(pixels, 200, 90).astype(np.uint8).ravel(), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{each - 1:04b}" for each in (3, 4, 8, 16))
    for start in range(0, len(values), 256):
        piece = values[start : start + 256]
        bits += f"010{len(piece) - 1:08b}" + "".join(f"{each:08b}" for each in piece)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def write_project(path: Path, tasks: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(tasks), "utf-8")
    return path
