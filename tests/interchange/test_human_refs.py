"""A human's references as they join an export: chosen by split, cleaned of what no loader takes, or refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from pseudoris.interchange.exports import HumanAnnotation
from pseudoris.interchange.human_refs import WITHOUT_SENTENCE, WITHOUT_TEXT, RecordIds, read_human
from pseudoris.schemas.errors import ConfigError


def ref(number: int, split: str, *texts: str) -> dict[str, Any]:
    sentences = [{"sent_id": 10 * number + n, "sent": text} for n, text in enumerate(texts)]
    ids = {"ref_id": number, "ann_id": number, "image_id": 7, "category_id": 1}
    return {**ids, "split": split, "sentences": sentences, "sent_ids": [each["sent_id"] for each in sentences]}


def annotated(segmentation) -> dict[str, Any]:
    return {"id": 2, "image_id": 7, "category_id": 1, "segmentation": segmentation}


@pytest.fixture
def write(tmp_path) -> Callable[..., HumanAnnotation]:
    def write(refs=None, **changes) -> HumanAnnotation:
        refs = refs or [ref(1, "train", "a"), ref(2, "val", "b", " "), ref(3, "val", "")]
        polygon = [[0, 0, 9, 9, 0, 9]]
        tree = {
            "images": [{"id": 7, "file_name": "x.jpg", "height": 10, "width": 10}],
            "annotations": [{"id": n, "image_id": 7, "category_id": 1, "segmentation": polygon} for n in (1, 2, 3)],
            "categories": [{"id": 1, "name": "person"}],
        }
        (tmp_path / "refs(x).p").write_bytes(pickle.dumps(refs))
        (tmp_path / "instances.json").write_text(json.dumps({**tree, **changes}))
        return HumanAnnotation(str(tmp_path / "refs(x).p"), str(tmp_path / "instances.json"))

    return write


def test_the_wanted_splits_come_without_empty_sentences(write):
    human = read_human(write())
    assert [each["ref_id"] for each in human.refs] == [2]
    assert [each["sent"] for each in human.refs[0]["sentences"]] == ["b"]
    assert human.dropped == {WITHOUT_TEXT: 2, WITHOUT_SENTENCE: 1}
    assert set(human.annotations) == {2}


def test_a_raw_text_of_blanks_follows_from_the_sentence_too(write):
    blank = ref(2, "val", "a b")
    blank["sentences"][0]["raw"] = "  "
    ((_, (new,)),) = read_human(write([blank])).renumbered(RecordIds(), {7: 1})
    assert new["sentences"][0]["raw"] == "a b"


@pytest.mark.parametrize("wrap", [lambda rle: rle, lambda rle: [rle]], ids=["bare", "in a list"])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_every_encoding_becomes_the_one_that_loaders_decode(write, wrap, is_compressed):
    pixels = np.zeros((10, 10), np.uint8, order="F")
    pixels[2:5, 3:8] = 1
    runs = [32, 3, 7, 3, 7, 3, 7, 3, 7, 3, 25]
    counts = coco.encode(pixels)["counts"].decode() if is_compressed else runs
    human = read_human(write([ref(2, "val", "a")], annotations=[annotated(wrap({"size": [10, 10], "counts": counts}))]))
    (segmentation,) = human.annotations[2]["segmentation"]
    assert np.array_equal(coco.decode(segmentation), pixels)


def test_polygons_stay_as_the_file_holds_them(write):
    polygon = [[0, 0, 9, 0, 9, 9.5]]
    human = read_human(write([ref(2, "val", "a")], annotations=[annotated(polygon)]))
    assert human.annotations[2]["segmentation"] == polygon


def test_two_references_of_one_mask_share_it_under_its_new_number(write):
    human = read_human(write([ref(2, "val", "a"), {**ref(9, "test", "b"), "ann_id": 2}]))
    ((annotation, refs),) = human.renumbered(RecordIds(), {7: 5})
    assert [each["ann_id"] for each in refs] == [annotation["id"]] * 2 == [1, 1]
    assert {each["image_id"] for each in refs} | {annotation["image_id"]} == {5}
    assert [each["ref_id"] for each in refs] == [1, 2]


@pytest.mark.parametrize(
    ("refs", "changes", "message"),
    [
        ([ref(1, "train", "a")], {}, r"has no reference of val, test, testA, testB. Its splits are: train"),
        (
            [ref(8, "val", "a")],
            {},
            r"names 1 annotation\(s\) that are not in .*instances.json.*, the first with id 8",
        ),
        (None, {"images": []}, r"names 1 image\(s\)"),
        (None, {"images": [5, {}, {"id": [7]}]}, r"names 1 image\(s\)"),
        (
            [ref(8, "val", "a"), {**ref(9, "val", "a"), "ann_id": "x"}],
            {},
            r"names 2 annotation\(s\).*the first with id 8",
        ),
        (
            None,
            {"categories": [{"name": "person"}]},
            r"instances.json: category \{'name': 'person'\} has no number as id",
        ),
        (None, {"categories": [[5]]}, r"instances.json: category \[5\] has no number as id"),
        (None, {"categories": 5}, r"is not an instances.json with images, annotations and categories"),
        *(
            (
                None,
                {"images": [{"id": 7, "file_name": name, "height": 1, "width": 1}]},
                rf"names the image '{re.escape(name.encode('unicode_escape').decode())}'. A file name without folders",
            )
            for name in ("../../x.jpg", "train\\x.jpg", "\ud800.jpg")
        ),
        (
            None,
            {"annotations": [{"id": 2, "image_id": 7, "category_id": 1, "segmentation": []}]},
            r"annotation 2 has no mask",
        ),
        (None, {"images": [{"id": 7, "file_name": "x.jpg"}]}, r"image 7 \(x.jpg\) does not say its height and width"),
        # pycocotools ended the process.
        (
            None,
            {"images": [{"id": 7, "file_name": "x.jpg", "height": 9, "width": 2**63 - 1}]},
            r"image 7 \(x.jpg\) does not say its height and width, of 1 to 65,535 pixels each",
        ),
        (
            None,
            {"annotations": [annotated({"size": [10, 10], "counts": [5, 96]})]},
            r"annotation 2 .* cover 101 pixels",
        ),
        (
            None,
            {"annotations": [annotated([{"size": [9, 10], "counts": "d3"}])]},
            r"annotation 2 .* is of size \[9, 10\]",
        ),
        (None, {"annotations": [annotated([{"counts": [5, 95]}])]}, r"2.*is of size a NoneType"),
        (None, {"annotations": [annotated([[1, 2, 3]])]}, r"annotation 2.*neither RLE nor polygons"),
        (None, {"annotations": [annotated({"size": [10, 10], "counts": [100]})]}, r"a mask without pixels"),
        (
            None,
            {"annotations": [{**annotated([[0, 0, 9, 0, 9, 9]]), "image_id": 8}]},
            r"is of image 8, another image than its reference",
        ),
        (
            None,
            {"annotations": [{**annotated([]), "image_id": [7] * 999}]},
            r"is of image \[7, 7.{95}, another image",
        ),
        ([{**ref(2, "val"), "sentences": [{"raw": "A b."}]}], {}, r"reference 2 has a sentence without `sent`"),
    ],
)
def test_files_that_do_not_fit_are_told(write, refs, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_human(write(refs, **changes))


def test_missing_instances_are_told(write):
    human = write()
    Path(human.instances).unlink()
    with pytest.raises(ConfigError, match=r"There is no file .*instances\.json"):
        read_human(human)


def test_an_image_that_is_not_in_the_named_folder_is_told(write, tmp_path):
    human = read_human(replace(write(), images=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"There is no image .*x\.jpg.*--merge-images"):
        human.image_bytes("x.jpg")
