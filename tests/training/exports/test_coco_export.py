"""The COCO export through pycocotools, its evaluation, torchvision, and what detectron2's loader asks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import CocoCaptions, CocoDetection

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.training.exports import coco_export as coco_export
from tests.training.exports.builders import LONG_TEXT, export
from tests.training.exports.readers_coco import detectron_instances, open_coco, read_instances


@pytest.fixture
def root(built_run, place) -> Path:
    export("coco", built_run, place)
    return Path(place.root)


def instances_of(root: Path) -> dict:
    return json.loads((root / "annotations" / "instances_train.json").read_text("utf-8"))


def captions_of(root: Path) -> dict:
    return json.loads((root / "annotations" / "captions_train.json").read_text("utf-8"))


def test_a_mask_is_a_bare_encoding_with_text_for_counts(root):
    for annotation in instances_of(root)["annotations"]:
        assert set(annotation["segmentation"]) == {"size", "counts"}
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_boxes_are_x_y_width_height_and_areas_are_pixels(root):
    for annotation in instances_of(root)["annotations"]:
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])


def test_ids_are_unique_plain_ints_and_every_reference_between_records_holds(root):
    instances, captions = instances_of(root), captions_of(root)
    for records in (instances["images"], instances["annotations"], captions["images"], captions["annotations"]):
        ids = [record["id"] for record in records]
        assert all(type(number) is int for number in ids)
        assert len(set(ids)) == len(ids) > 0
    images = {image["id"] for image in instances["images"]}
    masks = {annotation["id"]: annotation["image_id"] for annotation in instances["annotations"]}
    assert set(masks.values()) == images
    assert all(masks[caption["instance_id"]] == caption["image_id"] for caption in captions["annotations"])
    assert {annotation["category_id"] for annotation in instances["annotations"]} == {
        category["id"] for category in instances["categories"]
    }


def test_a_mask_without_a_kept_expression_is_an_instance_without_a_caption(root, built_run):
    found = {annotation["mask_id"]: texts for _, annotation, _, texts in read_instances(root)}
    num_masks = sum(len(image.masks) for image in built_run.truth)
    assert len(found) == num_masks
    assert sorted(map(len, found.values())) == sorted(
        len(mask.texts) for image in built_run.truth for mask in image.masks
    )
    assert [] in found.values()


def test_texts_with_quotes_and_other_letters_come_back_as_they_were(root):
    texts = {caption["caption"] for caption in captions_of(root)["annotations"]}
    assert "the half ünder \"quotes\" and 'more'" in texts
    assert "left || right" in texts


def test_no_mask_is_a_crowd_so_that_detectron_trains_on_every_one(root, built_run):
    found = open_coco(root / "annotations" / "instances_train.json")
    masks = [mask for image in found.getImgIds() for mask in detectron_instances(found, image)]
    due = [mask.pixels for image in built_run.truth for mask in image.masks]
    assert len(masks) == len(due)
    assert all(map(np.array_equal, masks, due))


def test_the_evaluation_of_pycocotools_gives_the_masks_against_themselves_a_one(root):
    truth = open_coco(root / "annotations" / "instances_train.json")
    results = [
        {key: each[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 1 / (number + 1)}
        for number, each in enumerate(instances_of(root)["annotations"])
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_torchvision_reads_images_instances_and_captions(root):
    with contextlib.redirect_stdout(io.StringIO()):
        detection = CocoDetection(str(root / "images"), str(root / "annotations" / "instances_train.json"))
        captions = CocoCaptions(str(root / "images"), str(root / "annotations" / "captions_train.json"))
    image, targets = detection[0]
    assert image.size == (targets[0]["segmentation"]["size"][1], targets[0]["segmentation"]["size"][0])
    assert captions[0][1] == ["the red half", "a half of red", "the blue one's edge"]


def test_the_split_names_the_files_and_no_path(built_run, place):
    export("coco", built_run, place, split="train2017")
    assert place.exists("annotations/instances_train2017.json")
    with pytest.raises(ConfigError, match=r"--split '\.\./x'"):
        export("coco", built_run, place, split="../x", is_overwriting=True)


def test_the_report_counts_images_instances_and_captions_and_what_was_left_out(built_run, place):
    report = export("coco", built_run, place, max_tokens=17)
    truth = [mask for image in built_run.truth for mask in image.masks]
    texts = [text for mask in truth for text in mask.texts if text != LONG_TEXT]
    assert report.rows == {"images": len(built_run.truth), "instances": len(truth), "captions": len(texts)}
    assert report.dropped == {"expressions of more than 17 CLIP tokens": 3, "images without a mask": 1}
    recorded = json.loads(place.read_bytes("_export.json"))
    assert (recorded["state"], recorded["rows"], recorded["dropped"]) == ("whole", report.rows, report.dropped)


DAMAGE = {
    "an empty caption": ("captions", '"caption":"the red half"', '"caption":" "'),
    "a caption of another mask": ("captions", '"instance_id":2', '"instance_id":3'),
    "a caption of a mask that is not there": ("captions", '"instance_id":1,', '"instance_id":99,'),
    "another size": ("instances", '"size":[12,20]', '"size":[20,12]'),
    "another box": ("instances", '"bbox":[3,2,', '"bbox":[3,3,'),
    "another area": ("instances", '"area":29', '"area":30'),
    "an id that is there twice": ("instances", '{"id":2,"image_id":1', '{"id":1,"image_id":1'),
    "an id that is no number": ("instances", '{"id":1,"file_name"', '{"id":"1","file_name"'),
    "another text": ("captions", "the red half", "the red calf"),
    "a file cut short": ("instances", "]}", ""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_read_back_is_told_and_the_export_is_not_whole(damage, built_run, place, monkeypatch):
    kind, old, new = DAMAGE[damage]
    real = coco_export.check_coco

    def damaged(destination, *paths, **options):
        path = f"annotations/{kind}_train.json"
        before = destination.read_bytes(path).decode()
        assert old in before
        destination.replace(path, before.replace(old, new, 1).encode())
        real(destination, *paths, **options)

    monkeypatch.setattr(coco_export, "check_coco", damaged)
    with pytest.raises(TransientError, match="Run the same command again"):
        export("coco", built_run, place)
    assert json.loads(place.read_bytes("_export.json"))["state"] == "begun"
