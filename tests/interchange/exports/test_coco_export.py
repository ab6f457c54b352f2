"""The COCO export through pycocotools, its evaluation, torchvision, and what detectron2's loader asks."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from torchvision.datasets import CocoCaptions, CocoDetection

from evidence.recipes.scene_shards import scene_image
from pseudoris.files.key_order import path_key
from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import json_pairs
from pseudoris.schemas.ids import sha256_hex
from tests.builders.command import invoke
from tests.builders.scene_runs import annotated, scenes
from tests.builders.scored_runs import finish
from tests.builders.sources import entries_of, write_files
from tests.interchange.exports.builders import LONG_TEXT, build_run, changed_tables, export, jpeg, stored
from tests.interchange.exports.readers_coco import detectron_instances, open_coco, read_sa1b
from tests.store.builders import commit_images, start_run


@pytest.fixture
def root(exported) -> Path:
    return exported("coco")[0]


def test_no_mask_is_a_crowd_so_that_detectron_trains_on_every_one(root, built_run):
    found = open_coco(root / "annotations" / "instances_train.json")
    masks = [mask for image in found.getImgIds() for mask in detectron_instances(found, image)]
    due = [mask.pixels for image in built_run.truth for mask in image.masks]
    assert len(masks) == len(due)
    assert all(map(np.array_equal, masks, due))


def test_fiftyone_which_reads_no_captions_finds_the_expressions_of_each_mask(root, built_run):
    """`COCODetectionDatasetImporter` (fiftyone 1.22.1, utils/coco.py) makes a field of every other key."""
    known = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
    tree = json.loads((root / "annotations" / "instances_train.json").read_text("utf-8"))
    fields = [{key: value for key, value in each.items() if key not in known} for each in tree["annotations"]]
    # Keys that its labels have themselves stop it.
    assert not {key for each in fields for key in each} & {
        "label",
        "mask",
        "bounding_box",
        "confidence",
        "index",
        "score",
    }
    due = [list(mask.texts) for image in built_run.truth for mask in image.masks]
    assert [each["expressions"] for each in fields] == due


def test_torchvision_reads_images_instances_and_captions(root):
    with contextlib.redirect_stdout(io.StringIO()):
        detection = CocoDetection(str(root / "images"), str(root / "annotations" / "instances_train.json"))
        captions = CocoCaptions(str(root / "images"), str(root / "annotations" / "captions_train.json"))
    image, targets = detection[0]
    assert image.size == (targets[0]["segmentation"]["size"][1], targets[0]["segmentation"]["size"][0])
    assert captions[0][1] == ["the red half", "a half of red", "the blue one's edge"]


def test_an_image_has_the_height_and_width_of_its_file(root):
    records = json.loads((root / "annotations" / "instances_train.json").read_text("utf-8"))["images"]
    sizes = [Image.open(root / "images" / each["file_name"]).size for each in records]
    assert [(each["width"], each["height"]) for each in records] == sizes
    assert any(width != height for width, height in sizes)


def test_the_report_counts_images_instances_and_captions_and_what_was_left_out(built_run, place):
    report = export("coco", built_run, place, max_tokens=17, split="train2017")
    truth = [mask for image in built_run.truth for mask in image.masks]
    texts = [text for mask in truth for text in mask.texts if text != LONG_TEXT]
    assert report.rows == {"images": len(built_run.truth), "instances": len(truth), "captions": len(texts)}
    assert report.dropped == {"expressions of more than 17 CLIP tokens": 3, "images without a mask": 1}
    assert place.exists("annotations/instances_train2017.json")
    recorded = json.loads(place.read_bytes("_export.json"))
    assert (recorded["state"], recorded["rows"], recorded["dropped"]) == ("whole", report.rows, report.dropped)


# SA-1B, through a reader written from the format's description.


def test_masks_of_a_prior_have_no_score_and_the_report_says_how_many(built_run, place, monkeypatch):
    def unscored(image):
        masks = (replace(mask, predicted_iou=None, stability_score=None) for mask in image.masks)
        return replace(image, masks=tuple(masks))

    changed_tables(monkeypatch, unscored)
    report = export("sa1b", built_run, place)
    scores = [mask["predicted_iou"] for _, _, masks in read_sa1b(Path(place.root)) for mask, _ in masks]
    assert set(scores) == {None}
    assert any(f"{len(scores)} masks of a prior have no predicted_iou" in note for note in report.notes)


def test_folders_are_filled_one_after_the_other(built_run, place, tmp_path, monkeypatch):
    monkeypatch.setattr(json_pairs, "IMAGES_A_FOLDER", 3)
    export("sa1b", built_run, place)
    assert sorted({Path(path).parts[0] for path in stored(place.root) if "/" in path}) == [
        "sa_000000",
        "sa_000001",
        "sa_000002",
    ]
    assert [image["image_id"] for _, image, _ in read_sa1b(Path(place.root))] == list(
        range(1, len(built_run.truth) + 1)
    )
    described = json.loads(place.read_bytes("croissant.json"))["distribution"]
    patterns = {each["includes"] for each in described if each["@type"] == "cr:FileSet"}
    assert patterns == {"sa_*/*.jpg", "sa_*/*.json", "sa_*/*.png"}
    # Replaced by one of fewer folders: of the others nothing is left.
    one = build_run(tmp_path / "one", ((path_key("a.jpg"), jpeg(), (("the red half",),)),))
    export("sa1b", one, place, is_overwriting=True)
    assert sorted(stored(place.root)) == [
        *("_export.json", "croissant.json", "sa_000000/sa_1.jpg", "sa_000000/sa_1.json")
    ]


def test_masks_of_a_tile_have_box_and_polygon_in_the_frame_of_the_picture(tmp_path):
    known, place = scenes(2), {"picture": "p.tif", "tile_xyxy_px": (100, 50, 292, 242), "picture_size": (300, 400)}
    write_files(tmp_path / "in", {key: scene_image(scene).data for key, scene in known.items()})
    run = RunLocation.open(str(tmp_path / "run"))

    def made(entry):
        sha256 = sha256_hex((tmp_path / "in" / entry.key).read_bytes())
        image = replace(annotated(entry, known[entry.key]), sha256=sha256)
        return image if entry.position else replace(image, **place)

    header = start_run(run, entries_of(known, source=tmp_path / "in"), source=str(tmp_path / "in"))
    commit_images(run, header, made)
    finish(run)
    invoke("export", tmp_path / "run", tmp_path / "out", "--format", "coco")
    whole = json.loads((tmp_path / "out/annotations/instances_train.json").read_bytes())
    tile, other = whole["images"]
    assert (tile["picture"], tile["picture_size"], tile["tile_xyxy_px"]) == ("p.tif", [300, 400], [100, 50, 292, 242])
    assert "picture" not in other
    of_image = [each for each in whole["annotations"] if each["image_id"] == tile["id"]]
    assert of_image
    for each in of_image:
        x, y, width, height = each["bbox"]
        assert each["picture_bbox"] == [x + 100, y + 50, width, height]
        due = np.zeros((300, 400), np.uint8)
        due[50:242, 100:292] = coco.decode(each["segmentation"])
        assert np.array_equal(coco.decode(coco.frPyObjects(each["picture_segmentation"], 300, 400))[..., 0], due)
    assert not any("picture_bbox" in each for each in whole["annotations"] if each["image_id"] == other["id"])
