"""A reader of the REFER layout, written from the description of the format alone: it imports nothing of ours.

It does what the public loaders do: indexes as `REFER.createIndex`, tells ids by `type(x) == int`, takes a mask's form
from the first element of its segmentation, trains on `raw` as LAVT and on `sent` as LISA.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

DATASETS = ("refcoco", "refcoco+", "refcocog", "refclef")


class Refer:
    def __init__(self, root: Path, dataset: str = "refcoco", split_by: str = "pseudo"):
        if dataset not in DATASETS:
            raise SystemExit(f"No refer dataset is called [{dataset}]")
        self.image_dir = Path(root) / "images/mscoco/images/train2014"
        with (Path(root) / dataset / f"refs({split_by}).p").open("rb") as file:
            self.refs_list = pickle.load(file)
        self.instances = json.loads((Path(root) / dataset / "instances.json").read_text())
        self.anns = {ann["id"]: ann for ann in self.instances["annotations"]}
        self.imgs = {image["id"]: image for image in self.instances["images"]}
        self.cats = {category["id"]: category["name"] for category in self.instances["categories"]}
        self.refs, self.ref_to_ann, self.sents, self.sent_to_tokens, self.cat_to_refs = {}, {}, {}, {}, {}
        for ref in self.refs_list:
            self.refs[ref["ref_id"]] = ref
            self.ref_to_ann[ref["ref_id"]] = self.anns[ref["ann_id"]]
            self.cat_to_refs.setdefault(ref["category_id"], []).append(ref)
            for sentence in ref["sentences"]:
                self.sents[sentence["sent_id"]] = sentence
                self.sent_to_tokens[sentence["sent_id"]] = sentence["tokens"]

    def get_ref_ids(self, split: str) -> list:
        if split in ("testA", "testB", "testC"):
            return [ref["ref_id"] for ref in self.refs_list if split[-1] in ref["split"]]
        return [ref["ref_id"] for ref in self.refs_list if ref["split"] == split]

    def load_refs(self, ref_ids) -> list | None:
        if isinstance(ref_ids, list):
            return [self.refs[ref_id] for ref_id in ref_ids]
        return [self.refs[ref_ids]] if type(ref_ids) == int else None  # noqa: E721, the trap itself

    def load_imgs(self, image_ids) -> list | None:
        if isinstance(image_ids, list):
            return [self.imgs[image_id] for image_id in image_ids]
        return [self.imgs[image_ids]] if type(image_ids) == int else None  # noqa: E721

    def get_mask(self, ref: dict) -> np.ndarray:
        ann = self.ref_to_ann[ref["ref_id"]]
        image = self.imgs[ref["image_id"]]
        if type(ann["segmentation"][0]) is list:
            rle = coco.frPyObjects(ann["segmentation"], image["height"], image["width"])
        else:
            rle = [
                {"size": each["size"], "counts": each["counts"].encode()} if type(each["counts"]) is str else each
                for each in ann["segmentation"]
            ]
        return np.sum(coco.decode(rle), axis=2).astype(np.uint8)


class LavtDataset:
    """One item a reference: image, mask == 1, the sentences' `raw`, zipped with `sent_ids`."""

    def __init__(self, root: Path, split: str, dataset: str = "refcoco", split_by: str = "pseudo"):
        self.refer = Refer(root, dataset, split_by)
        self.ref_ids = self.refer.get_ref_ids(split)
        image_ids = [self.refer.refs[ref_id]["image_id"] for ref_id in self.ref_ids]
        self.images = self.refer.load_imgs(image_ids)
        self.texts = []
        for ref_id in self.ref_ids:
            ref = self.refer.refs[ref_id]
            self.texts.append([each["raw"] for each, _ in zip(ref["sentences"], ref["sent_ids"], strict=False)])

    def __len__(self):
        return len(self.ref_ids)

    def __getitem__(self, index: int):
        (ref,) = self.refer.load_refs(self.ref_ids[index])
        (image,) = self.refer.load_imgs(ref["image_id"])
        mask = self.refer.get_mask(ref) == 1
        return self.refer.image_dir / image["file_name"], mask, self.texts[index]


def lisa_texts(ref: dict) -> list[str]:
    """What LISA asks of the texts of a reference."""
    texts = [sentence["sent"].strip().lower() for sentence in ref["sentences"]]
    for text in texts:
        assert "||" not in text
        assert text
    return texts
