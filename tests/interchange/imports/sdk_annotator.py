"""A simulated annotator made of label-studio-sdk: takes the folder of an export, and writes what a project exports.

It imports nothing of ours, and runs in an environment that has the SDK alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import AnnotationValue, PredictionValue, TaskValue


def main(export: Path, project: Path) -> None:
    interface = LabelInterface((export / "config.xml").read_text())
    interface.validate()
    first, second, third = tasks = json.loads((export / "tasks.json").read_text("utf-8"))
    for task in tasks:
        # Of a whole task the SDK's check calls its own parts without an argument.
        assert interface.validate_task({"data": TaskValue(**task).data}), task["data"]
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        for each in PredictionValue(**prediction).result:
            if each["type"] == "brushlabels":
                values = decode_rle(each["value"]["rle"]).reshape(each["original_height"], each["original_width"], 4)
                assert values.any()

    results = first["predictions"][0]["result"]
    size = results[0]["original_height"], results[0]["original_width"]
    pixels = np.zeros(size, np.uint8)
    pixels[2:8, 3:9] = 255
    new = {**results[0], "id": "sdk01"}
    new["value"] = {"format": "rle", "rle": mask2rle(pixels), "brushlabels": ["object"]}
    text = {**new, "from_name": "text", "type": "textarea", "value": {"text": ["what the sdk says"]}}
    done = [
        AnnotationValue(completed_by=1, lead_time=4.2, result=[*results, new, text]),
        AnnotationValue(completed_by=1, result=second["predictions"][0]["result"]),
        AnnotationValue(completed_by=1, was_cancelled=True, result=[]),
    ]
    for annotation in done:
        assert interface.validate_annotation(annotation.model_dump()), annotation
    written = [
        {"id": number, "data": task["data"], "annotations": [{"id": number, **annotation.model_dump()}]}
        for number, (task, annotation) in enumerate(zip((first, second, third), done, strict=True), 1)
    ]
    project.write_text(json.dumps(written), "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
