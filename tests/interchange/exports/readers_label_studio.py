"""A reader of Label Studio's tasks, from label-studio-sdk 2.1.2: `LabelInterface.validate_prediction` (label_interface)
and `decode_rle` (converter/brush.py), with the keys that the validator does not ask for. It imports nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np

CONTROLS = {"brushlabels": "BrushLabels", "textarea": "TextArea"}


class Bits:
    def __init__(self, data: list[int]):
        self.bits, self.at = np.unpackbits(np.array(data, np.uint8)), 0

    def read(self, number: int) -> int:
        self.at += number
        assert self.at <= len(self.bits)
        return int("".join(map(str, self.bits[self.at - number : self.at])), 2)


def decode_rle(data: list[int]) -> np.ndarray:
    """Return the values of the image, RGBA row by row; a run without the first bit is spelt out value by value."""
    bits = Bits(data)
    values = np.zeros(bits.read(32), np.uint8)
    word_size = bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    at = 0
    while at < len(values):
        is_run = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        if is_run:
            values[at:end] = bits.read(word_size)
        else:
            values[at:end] = [bits.read(word_size) for _ in range(at, end)]
        at = end
    return values


def read_label_studio(root: Path) -> Iterator[tuple[Path, dict[str, tuple[np.ndarray, list[str]]], list[str]]]:
    """Yield the image's path, each region's mask (H, W) bool and texts by its id, and the texts of the image alone."""
    config = {each.get("name"): each for each in ElementTree.parse(root / "config.xml").getroot().iter()}
    for task in json.loads((root / "tasks.json").read_text("utf-8")):
        place = urlsplit(task["data"][config["image"].get("value").removeprefix("$")])
        assert place.path == "/data/local-files/"
        (prediction,) = task["predictions"]
        masks, texts, alone = {}, {}, []
        for region in prediction["result"]:
            control = config[region["from_name"]]
            assert control.tag == CONTROLS[region["type"]]
            assert control.get("toName") == region["to_name"] == "image"
            size, value = (region["original_height"], region["original_width"]), region["value"]
            if region["type"] == "brushlabels":
                assert value["format"] == "rle"
                assert set(value["brushlabels"]) <= {each.get("value") for each in control}
                pixels = decode_rle(value["rle"]).reshape(*size, 4)
                assert set(np.unique(pixels)) <= {0, 255}
                masks[region["id"]] = pixels[..., 3] == 255
            elif control.get("perRegion") == "true":
                texts[region["id"]] = value["text"]
            else:
                alone += value["text"]
        assert texts.keys() <= masks.keys()
        regions = {key: (mask, texts.get(key, [])) for key, mask in masks.items()}
        yield root / parse_qs(place.query)["d"][0], regions, alone
