"""Readers of what trainers of masks take today, from the loaders' sources: they import nothing of ours.

Sa2VA 9832e1a: `Sa2VAFinetuneDataset` (projects/sa2va/datasets/sa2va_data_finetune.py). SAM 3 99d02f2: `COCO_FROM_JSON`
(sam3/train/data/coco_json_loaders.py), under the class that the export ships. ReLA 3ca9551: `load_grefcoco_json` and
`G_REFER` (gres_model/data), and its mapper's masks. LISA 3cb2d43: `ReasonSegDataset` and `get_mask_from_json` (utils).

Each yields (image's path, text, the targets' masks); a union is one mask.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pycocotools import mask as coco

Read = tuple[Path, str, list[np.ndarray]]


def read_sa2va(root: Path) -> Iterator[Read]:
    for row in json.loads((root / "annotations.json").read_text("utf-8")):
        assert len(row["mask"]) == len(row["text"]) <= 8
        for parts, text in zip(row["mask"], row["text"], strict=True):
            assert text
            height, width = parts[0]["size"]
            total = np.zeros((height, width), np.uint8)
            # Each part by itself, so that a compressed one is a ValueError, and overlapping ones add to 2.
            for part in parts:
                total += coco.decode(coco.frPyObjects([part], height, width)).sum(axis=2, dtype=np.uint8)
            assert total.max() == 1
            yield root / "images" / row["image"], text, [total == 1]


class CocoFromJson:
    """All categories are asked of every image, in one chunk, unless another is set."""

    def __init__(self, annotation_file):
        tree = json.loads(Path(annotation_file).read_text("utf-8"))
        self._names = {each["id"]: each["name"] for each in tree["categories"]}
        self.category_chunks = [sorted(self._names)]
        self._raw_data = [
            {"image": image, "annotations": [each for each in tree["annotations"] if each["image_id"] == image["id"]]}
            for image in tree["images"]
        ]

    def getDatapointIds(self):  # noqa: N802
        return list(range(len(self._raw_data) * len(self.category_chunks)))

    def loadImagesFromDatapoint(self, idx):  # noqa: N802
        image = self._raw_data[idx // len(self.category_chunks)]["image"]
        return [{"id": 0, "file_name": image["file_name"], "original_img_id": image["id"]}]

    def loadQueriesAndAnnotationsFromDatapoint(self, idx):  # noqa: N802
        entry = self._raw_data[idx // len(self.category_chunks)]
        queries, annotations = [], []
        for category in self.category_chunks[idx % len(self.category_chunks)]:
            found = [each for each in entry["annotations"] if each["category_id"] == category]
            places = range(len(annotations), len(annotations) + len(found))
            queries.append({"query_text": self._names[category], "object_ids_output": list(places)})
            annotations += [{**each, "is_crowd": each["iscrowd"]} for each in found]
        return queries, annotations


def sam3_loader(root: Path):
    """Return the class that lies in the export, over a stand-in for SAM 3's own."""
    stand_in = ModuleType("sam3.train.data.coco_json_loaders")
    stand_in.COCO_FROM_JSON = CocoFromJson
    names = ("sam3", "sam3.train", "sam3.train.data")
    modules = {**{name: ModuleType(name) for name in names}, stand_in.__name__: stand_in}
    spec = importlib.util.spec_from_file_location("per_image_queries", root / "per_image_queries.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, each in modules.items():
            patch.setitem(sys.modules, name, each)
        spec.loader.exec_module(module)
    return module.PerImageQueries


def read_sam3(root: Path, **options) -> Iterator[Read]:
    loader = sam3_loader(root)(str(root / "annotations.json"), **options)
    for point in loader.getDatapointIds():
        (image,) = loader.loadImagesFromDatapoint(point)
        queries, annotations = loader.loadQueriesAndAnnotationsFromDatapoint(point)
        for query in queries:
            masks = [coco.decode(annotations[each]["segmentation"]) == 1 for each in query["object_ids_output"]]
            yield root / "images" / image["file_name"], query["query_text"], masks


def read_grefcoco(root: Path, split: str = "train") -> Iterator[Read]:
    """Read a split; `raw` is what ReLA trains on, `sent` what the others do."""
    instances = json.loads((root / "grefcoco/instances.json").read_text("utf-8"))
    images = {each["id"]: each for each in instances["images"]}
    annotations = {each["id"]: each for each in instances["annotations"]}
    assert {each["category_id"] for each in instances["annotations"]} <= {
        each["id"] for each in instances["categories"]
    }
    for ref in json.loads((root / "grefcoco/grefs(unc).json").read_text("utf-8")):
        if ref["split"] != split:
            continue
        image = images[ref["image_id"]]
        masks = []
        for number, category in zip(ref["ann_id"], ref["category_id"], strict=True):
            if number == -1:
                assert (ref["ann_id"], category) == ([-1], -1)
                continue
            annotation = annotations[number]
            assert annotation["image_id"] == ref["image_id"]
            polygons = [each for each in annotation["segmentation"] if len(each) % 2 == 0 and len(each) >= 6]
            assert len(polygons) == len(annotation["segmentation"])
            codes = coco.frPyObjects(polygons, image["height"], image["width"])
            masks.append(coco.decode(coco.merge(codes)) == 1)
        for sentence in ref["sentences"]:
            assert sentence["raw"] == sentence["sent"] == " ".join(sentence["tokens"])
            yield root / "images/mscoco/images/train2014" / image["file_name"], sentence["raw"], masks


def read_reasonseg(root: Path, dataset: str = "ReasonSeg", split: str = "train") -> Iterator[Read]:
    """Read with OpenCV: the image whatever its name says, polygons by outline and area."""
    import cv2

    folder = root / "reason_seg" / dataset
    explained = json.loads((folder / "explanatory" / "train.json").read_text("utf-8"))
    assert all({"image", "query", "outputs"} <= each.keys() for each in explained)
    for path in sorted((folder / split).glob("*.jpg")):
        tree = json.loads(path.with_suffix(".json").read_text("utf-8"))
        drawn = np.zeros(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR).shape[:2], np.uint8)
        for shape in tree["shapes"]:
            assert shape["label"] != "flag"
            assert "ignore" not in shape["label"]
            points = np.array([shape["points"]], np.int32)
            cv2.polylines(drawn, points, True, 1, 1)
            cv2.fillPoly(drawn, points, 1)
        assert tree["is_sentence"] is False
        for text in tree["text"]:
            yield path, text, [drawn == 1]
