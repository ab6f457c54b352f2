"""The REFER layout, written by hand as the field's datasets have it, and what does not fit together."""

from __future__ import annotations

import pickle

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.imports.refer import read_refer
from tests.builders.human import document, image_row, object_row, reference

IMAGES = [image_row(7, "a.png"), image_row(8, "sub/b.png")]
OBJECTS = [object_row(70, 7), object_row(71, 7), object_row(80, 8), object_row(81, 8)]


def read(refs, *, images=IMAGES, objects=OBJECTS, splits=("train",), protocol=2):
    data = pickle.dumps(refs, protocol)
    return read_refer(data, document(images, objects), refs_name="refs(unc).p", splits=splits)


def texts(annotation) -> dict[tuple[str, int], tuple[str, ...]]:
    return {(image.path, mask.annotation_id): mask.texts for image in annotation.images for mask in image.masks}


def test_the_objects_of_a_split_are_read_with_what_is_said_of_them():
    refs = [reference(1, 71, 7, "the cat", "left cat"), reference(2, 80, 8, "a dog", split="val")]
    found = read(refs)
    assert texts(found) == {("a.png", 71): ("the cat", "left cat")}
    (image,) = found.images
    assert (image.size, image.masks[0].index, image.masks[0].segmentation) == ((24, 32), 1, OBJECTS[1]["segmentation"])
    assert texts(read(refs, splits=("train", "val"))) == {
        ("a.png", 71): ("the cat", "left cat"),
        ("sub/b.png", 80): ("a dog",),
    }


def test_sent_is_read_and_raw_where_it_is_missing():
    ref = reference(1, 70, 7, "the cat")
    ref["sentences"] += [{"sent_id": 2, "raw": "A Dog. "}, {"sent_id": 3, "sent": "a cow", "raw": "Not This"}]
    assert texts(read([ref])) == {("a.png", 70): ("the cat", "a dog", "a cow")}


def test_texts_are_written_as_the_tables_write_them_and_what_is_left_out_is_counted():
    found = read([reference(1, 70, 7, "THE  CAT. ", "", " . ", "the cat"), reference(2, 70, 7, "The cat", "black cat")])
    assert texts(found) == {("a.png", 70): ("the cat", "black cat")}
    assert found.left_out.counts == {
        "expressions without a letter": 2,
        "expressions said twice of one mask": 2,
        "objects that nobody of these splits refers to": 3,
    }


def test_short_sent_ids_lose_no_sentence_and_the_references_own_file_name_is_ignored():
    found = read([reference(1, 70, 7, "the cat", "left cat", sent_ids=[10], file_name="../../etc/passwd")])
    assert texts(found) == {("a.png", 70): ("the cat", "left cat")}


def test_masks_stand_in_the_order_of_the_instances_whatever_the_order_of_references():
    refs = [reference(1, 81, 8, "one"), reference(2, 70, 7, "two"), reference(3, 80, 8, "three")]
    assert list(texts(read(refs))) == list(texts(read(refs[::-1])))


def test_the_digests_are_those_of_both_files():
    first, second = read([reference(1, 70, 7, "a")]), read([reference(1, 70, 7, "b")])
    assert set(first.digests) == {"refs(unc).p", "instances.json"}
    assert first.digests["refs(unc).p"] != second.digests["refs(unc).p"]
    assert first.digests["instances.json"] == second.digests["instances.json"]


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({"train": []}, "has a dict. A list of references"),
        (["a reference"], "reference 0 has no split"),
        ([{"ref_id": 1}], "reference 0 has no split"),
        ([], r"no reference of split 'train'. Its splits are none"),
        (
            [reference(1, 70, 7, "x", split="val")],
            r"no reference of split 'train'. Its splits are val \(1\). Choose one with --split",
        ),
        ([reference(1, 99, 7, "x")], r"reference 0 names ann_id 99, which is not in instances\.json"),
        ([reference(1, "70", 7, "x")], "names ann_id '70', which"),
        ([reference(1, [70], 7, "x")], "names ann_id a list, which"),
        ([reference(1, 70, 8, "x")], "names image_id 8, but its annotation 70 belongs to another image"),
        ([reference(1, 70, [7], "x")], "names image_id a list, but its annotation"),
        ([reference(1, 70, 7, sentences="the cat")], "has the sentences 'the cat'. A list of dicts"),
        ([reference(1, 70, 7, sentences=["the cat"])], "has the sentences a list"),
        (
            [reference(1, 70, 7, sentences=[{"sent": None}])],
            "annotation 70 has the expression None. An expression must be a UTF-8 text",
        ),
        ([reference(1, 70, 7, sentences=[{}])], "annotation 70 has the expression None"),
        ([reference(1, 70, 7, sentences=[{"sent": 5}])], "annotation 70 has the expression 5"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place_and_the_remedy(refs, message):
    with pytest.raises(ConfigError, match=message):
        read(refs)


def test_every_split_that_is_asked_for_must_be_there():
    with pytest.raises(ConfigError, match="no reference of split 'testA'"):
        read([reference(1, 70, 7, "x")], splits=("train", "testA"))
