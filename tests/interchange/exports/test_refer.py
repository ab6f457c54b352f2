"""REFER's layout: what its loaders ask of the pickle and of instances.json, and a human's splits merged into it."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from pseudoris.interchange.exports import HumanAnnotation, refer
from pseudoris.interchange.exports.destination import claim_destination
from pseudoris.interchange.human_refs import WITHOUT_SENTENCE, WITHOUT_TEXT, read_human
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from tests.builders.human import image_row, object_row, reference, write_images, write_refer
from tests.interchange.exports.builders import HEIGHT, PICTURES, WIDTH, export
from tests.interchange.exports.loading import load_refer
from tests.interchange.exports.readers_refer import LavtDataset, Refer, lisa_texts


@pytest.fixture
def root(exported) -> Path:
    return exported("refer")[0]


@pytest.fixture
def human(tmp_path) -> HumanAnnotation:
    """A REFER dataset of three splits, whose numbers are those that a run's export uses too."""
    names = ["COCO_train2014_1.jpg", "COCO_train2014_2.jpg", "turned.jpg"]
    images = write_images(tmp_path / "images", *names, size=(HEIGHT, WIDTH))
    refs = [
        reference(at, at, at, "human 0", "human 1", " ", split=split)
        for at, split in enumerate(["train", "val", "testA"], 1)
    ]
    rows = [image_row(at, name, height=HEIGHT, width=WIDTH) for at, name in enumerate(names, 1)]
    objects = [object_row(at, at, (2, 2, 8, 9)) for at in (1, 2, 3)]
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    written = write_human(tmp_path / "refcoco", rows, objects, refs, categories=categories)
    return replace(written, images=str(images))


def write_human(folder: Path, rows, objects, refs, /, **changes) -> HumanAnnotation:
    """Write a REFER dataset, with changes of its `instances.json`."""
    path = write_refer(folder, rows, objects, refs) / "instances.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return HumanAnnotation(str(path.with_name("refs(unc).p")), str(path))


def refs_of(root: Path) -> list[dict]:
    return pickle.loads((root / "refcoco" / "refs(pseudo).p").read_bytes())


def instances_of(root: Path) -> dict:
    return json.loads((root / "refcoco" / "instances.json").read_text())


def test_trap_numbers_are_plain_python_ints_so_that_loaders_find_them(root):
    def numbers(tree):
        if isinstance(tree, dict | list):
            for each in tree.values() if isinstance(tree, dict) else tree:
                yield from numbers(each)
        elif not isinstance(tree, str):
            yield tree

    refs = refs_of(root)
    assert {type(number) for number in numbers(refs)} == {int}
    reader = Refer(root)
    assert all(reader.load_refs(ref["ref_id"]) and reader.load_imgs(ref["image_id"]) for ref in refs)
    assert reader.load_refs(np.int64(refs[0]["ref_id"])) is None


def test_trap_the_pickle_is_of_protocol_four_or_lower_and_names_no_class(root):
    found = list(pickletools.genops((root / "refcoco" / "refs(pseudo).p").read_bytes()))
    assert next(argument for code, argument, _ in found if code.name == "PROTO") <= 4
    assert not {code.name for code, _, _ in found} & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ"}


def test_trap_sent_ids_are_as_long_as_the_sentences_and_in_their_order(root):
    refs = refs_of(root)
    assert all(ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]] for ref in refs)
    # LAVT zips both: no text may get lost.
    assert sum(map(len, LavtDataset(root, "train").texts)) == sum(
        len(ref["sentences"]) for ref in refs if ref["split"] == "train"
    )


def test_trap_ids_of_references_masks_images_and_sentences_are_unique(root):
    refs, tree = refs_of(root), instances_of(root)
    for ids in (
        [ref["ref_id"] for ref in refs],
        [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]],
        [annotation["id"] for annotation in tree["annotations"]],
        [image["id"] for image in tree["images"]],
    ):
        assert len(set(ids)) == len(ids) > 0


def test_trap_bars_that_lisa_refuses_are_dropped_and_counted_under_the_names_that_were_given(built_run, place):
    report = export("refer", built_run, place, dataset="refcocog", split_by="umd", split="val")
    assert report.dropped["expressions that hold '||'"] == 2
    found = LavtDataset(Path(place.root), "val", "refcocog", "umd").refer.refs_list
    assert found
    assert all(map(lisa_texts, found))
    for _ in range(2):
        with pytest.raises(ConfigError, match="--dataset refcocog, whose files would stay beside this one"):
            export("refer", built_run, place, dataset="refcoco", is_overwriting=True)
        claim_destination(place, "refer", ["refcocog", "images"], is_overwriting=True, dataset="refcocog")


def test_masks_are_polygons_which_fill_to_the_same_pixels_as_encodings_where_asked(run_of_several, exported):
    polygons, encoded = (exported("refer", run=run_of_several, **each)[0] for each in ({}, {"masks": "rle"}))
    codes = [each["segmentation"] for each in instances_of(polygons)["annotations"]]
    assert {(len(code), type(code[0])) for code in codes} == {(1, list)}
    found, due = ([*load_refer(each)] for each in (polygons, encoded))
    assert [mask.texts for mask in found] == [mask.texts for mask in due]
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(found, due, strict=True))


def test_a_humans_splits_join_without_a_number_shared(built_run, human, place):
    report = export("refer", built_run, place, human=human)
    root = Path(place.root)
    test_trap_ids_of_references_masks_images_and_sentences_are_unique(root)
    test_trap_numbers_are_plain_python_ints_so_that_loaders_find_them(root)
    test_trap_sent_ids_are_as_long_as_the_sentences_and_in_their_order(root)
    assert {split: len(LavtDataset(root, split)) for split in ("train", "val", "testA")} == {
        "train": report.rows["references of train"],
        "val": 1,
        "testA": 1,
    }
    val = LavtDataset(root, "val")
    path, mask, texts = val[0]
    shown = (Path(human.images) / "COCO_train2014_2.jpg").read_bytes()
    assert (path.name, path.read_bytes(), texts) == ("COCO_train2014_2.jpg", shown, ["Human 0 ", "Human 1 "])
    assert 30 < mask.sum() < 60
    reader = val.refer
    assert {reader.cats[reader.ref_to_ann[ref_id]["category_id"]] for ref_id in val.ref_ids} == {"person"}
    pseudo = LavtDataset(root, "train")
    assert {reader.cats[reader.ref_to_ann[ref_id]["category_id"]] for ref_id in pseudo.ref_ids} == {"object"}
    assert report.dropped["human sentences without a text"] == 2
    # What they show is not trained on.
    (turned,) = [key for key, _, _ in PICTURES if key.endswith("turned.jpg")]
    assert report.dropped[refer.SHOWN_TO_HUMANS] == 1
    assert image_id(turned) not in {mask.image_id for mask in load_refer(root)}
    protocol = json.loads((root / "croissant.json").read_text())["rai:dataAnnotationProtocol"]
    assert "Of a REFER data set by people: the splits val, test, testA, testB" in "\n".join(protocol)


def test_without_their_folder_the_humans_images_are_named_as_missing(built_run, human, place):
    named = HumanAnnotation(human.refs, human.instances, ("val",))
    report = export("refer", built_run, place, human=named)
    assert any("The 1 images of the human references were not copied" in note for note in report.notes)


# What a human's references may be.


def ref(number: int, split: str, *texts: str) -> dict[str, Any]:
    return reference(number, number, 7, *texts, split=split)


def annotated(segmentation, **changes) -> dict[str, Any]:
    return object_row(2, 7, segmentation=segmentation, **changes)


@pytest.fixture
def write(tmp_path) -> Callable[..., HumanAnnotation]:
    def write(refs=None, **changes) -> HumanAnnotation:
        refs = refs or [ref(1, "train", "a"), ref(2, "val", "b", " "), ref(3, "val", "")]
        objects = [object_row(number, 7, (0, 0, 9, 9)) for number in (1, 2, 3)]
        return write_human(tmp_path, [image_row(7, "x.jpg", height=10, width=10)], objects, refs, **changes)

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
    ((_, (new,)),) = read_human(write([blank])).renumbered({7: 1})
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


def test_two_references_of_one_mask_share_it_under_its_new_number(write):
    human = read_human(write([ref(2, "val", "a"), {**ref(9, "test", "b"), "ann_id": 2}]))
    ((annotation, refs),) = human.renumbered({7: 5})
    assert [each["ann_id"] for each in refs] == [annotation["id"]] * 2 == [1, 1]
    assert {each["image_id"] for each in refs} | {annotation["image_id"]} == {5}
    assert [each["ref_id"] for each in refs] == [1, 2]


def shown(**changes) -> list[dict[str, Any]]:
    return [{**image_row(7, "x.jpg"), **changes}]


@pytest.mark.parametrize(
    ("refs", "changes", "message"),
    [
        ([ref(1, "train", "a")], {}, r"has no reference of val, test, testA, testB. Its splits are: train"),
        ([ref(8, "val", "a")], {}, r"names 1 annotation\(s\) that are not in .*instances.json.*, the first with id 8"),
        (None, {"images": []}, r"names 1 image\(s\)"),
        (None, {"images": [5, {}, {"id": [7]}]}, r"names 1 image\(s\)"),
        ([ref(8, "val", "a"), {**ref(9, "val", "a"), "ann_id": "x"}], {}, r"names 2 annotation.*the first with id 8"),
        (None, {"categories": [{"name": "person"}]}, r"category \{'name': 'person'\} has no number as id"),
        (None, {"categories": [[5]]}, r"instances.json: category \[5\] has no number as id"),
        (None, {"categories": 5}, r"is not an instances.json with images, annotations and categories"),
        *(
            (
                None,
                {"images": shown(file_name=name)},
                rf"names the image '{re.escape(name.encode('unicode_escape').decode())}'. A file name without folders",
            )
            for name in ("../../x.jpg", "train\\x.jpg", "\ud800.jpg")
        ),
        (None, {"annotations": [annotated([])]}, r"annotation 2 has no mask"),
        (None, {"images": shown(height=None)}, r"image 7 \(x.jpg\) does not say its height and width"),
        (
            [ref(2, "val", "a"), {**ref(3, "val", "b"), "ann_id": 2, "image_id": 9}],
            {"images": [*shown(), image_row(9, "x.jpg")]},
            r"several images of the name 'x.jpg'",
        ),
        # pycocotools ended the process.
        (None, {"images": shown(width=2**63 - 1)}, r"say its height and width, of 1 to 65,535 pixels each"),
        (None, {"annotations": [annotated({"size": [10, 10], "counts": [5, 96]})]}, r"2 .* cover 101 pixels"),
        (None, {"annotations": [annotated([{"size": [9, 10], "counts": "d3"}])]}, r"2 .* is of size \[9, 10\]"),
        (None, {"annotations": [annotated([{"counts": [5, 95]}])]}, r"2.*is of size a NoneType"),
        (None, {"annotations": [annotated([[1, 2, 3]])]}, r"annotation 2.*neither RLE nor polygons"),
        (None, {"annotations": [annotated({"size": [10, 10], "counts": [100]})]}, r"a mask without pixels"),
        (None, {"annotations": [object_row(2, 8)]}, r"is of image 8, another image than its reference"),
        (None, {"annotations": [annotated([], image_id=[7] * 999)]}, r"is of image \[7, 7.{95}, another image"),
        ([{**ref(2, "val"), "sentences": [{"raw": "A b."}]}], {}, r"reference 2 has a sentence without `sent`"),
    ],
)
def test_files_that_do_not_fit_are_told(write, refs, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_human(write(refs, **changes))


def test_files_that_are_missing_are_told(write, tmp_path):
    human = replace(write(), images=str(tmp_path))
    with pytest.raises(ConfigError, match=r"There is no image .*x\.jpg.*--merge-images"):
        read_human(human).image_bytes("x.jpg")
    Path(human.instances).unlink()
    with pytest.raises(ConfigError, match=r"There is no file .*instances\.json"):
        read_human(human)
