"""A human's REFER annotation as a truth, from its files through the import to the figures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.training.evaluation import HumanTruth, evaluate_run
from pseudoris.training.evaluation.evaluation_report import part_titles
from pseudoris.training.evaluation.human_truth import APPROXIMATION, WITHOUT_SENTENCE, HumanImageTruth, text_words
from tests.builders.human import (
    HEIGHT,
    WIDTH,
    box_mask,
    document,
    image_row,
    object_row,
    reference,
    write_images,
    write_refer,
)
from tests.builders.imports import import_small
from tests.builders.scene_runs import mask_records, said
from tests.store.builders import commit_images, empty, start_run

CAT, DOG, CUP = (2, 2, 12, 12), (14, 2, 26, 10), (4, 14, 20, 22)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Two images: a cat, a dog and a cup nobody speaks of; and two cats."""
    folder = tmp_path_factory.mktemp("human")
    images = write_images(folder / "images", "a.png", "b.png")
    objects = [object_row(1, 1, CAT), object_row(2, 1, DOG), object_row(3, 1, CUP)]
    objects += [object_row(4, 2, CAT), object_row(5, 2, DOG)]
    refs = [
        reference(1, 1, 1, "the black cat", "a cat on a chair"),
        reference(2, 2, 1, "the brown dog"),
        reference(4, 4, 2, "left cat", "the small cat"),
        reference(5, 5, 2, "the right cat"),
    ]
    rows = [image_row(1, "a.png"), image_row(2, "b.png")]
    import_small(write_refer(folder / "refcoco", rows, objects, refs), images, place(folder, "truth"))
    return folder


@pytest.fixture(scope="module")
def human(imported):
    return HumanTruth.read(place(imported, "truth"))


def place(tmp_path, name):
    return RunLocation.open(str(tmp_path / name))


def model_run(location, *images, kinds=MappingProxyType({})):
    """Write a run of (key, boxes, {mask: texts}); every text is drawn once by top-p and kept; `kinds` by text."""
    entries = [PlanEntry(0, n, image_id(key), key, 9, None, 5) for n, (key, _, _) in enumerate(images)]
    given = {key: (boxes, texts) for key, boxes, texts in images}

    def image(entry):
        boxes, texts = given[entry.key]
        masks = mask_records(entry.image_id, np.stack([box_mask(box) for box in boxes]))
        expressions = tuple(
            replace(said(masks[n].mask_id, text, "top_p"), kind=kinds.get(text, "attribute"))
            for n, each in texts.items()
            for text in each
        )
        return replace(empty(entry), height=HEIGHT, width=WIDTH, masks=masks, expressions=expressions)

    commit_images(location, start_run(location, entries), image)
    return location


def test_a_run_of_models_is_judged_by_what_humans_said(human, tmp_path):
    # One pixel less of the cat, the dog exactly, and the cup, which nobody speaks of.
    run = model_run(
        place(tmp_path, "run"),
        ("a.png", [(2, 2, 12, 11), DOG, CUP], {0: ["a black cat", "a dog"], 1: ["the dog"], 2: ["the cup"]}),
        ("b.png", [CAT, DOG], {0: ["a cat"], 1: ["the cat on the right"]}),
        ("c.png", [CAT], {0: ["a horse"]}),
    )
    found = evaluate_run(run, human)
    assert APPROXIMATION in found.notes
    assert human.example_key == "a.png"
    assert (found.images.judged, found.images.unknown, found.images.unknown_key) == (2, 1, "c.png")
    # Right: "a black cat", "the dog", "the cat on the right"; and "a cat" is as near to "left cat" as to none other.
    kept = found.sets["kept"]
    assert kept["accuracy"].value == pytest.approx(4 / 6)
    assert kept["accuracy_on_objects"].value == pytest.approx(4 / 5)
    assert kept["coverage"].value == pytest.approx(4 / 4)
    assert found.mask_quality["mean_iou"].value == pytest.approx((0.9 + 3) / 4)
    assert kept["attribute_precision"].value != kept["attribute_precision"].value, "no attribute is annotated"
    assert found.difficulty["1"].expressions == 2
    assert found.difficulty["no object"].expressions == 1
    assert found.groups == {}


def test_what_sentences_of_one_object_cannot_judge_is_left_out_and_counted(human, tmp_path):
    texts = {0: ["the black cat", "a dog"], 1: ["the dog"]}
    whole = evaluate_run(model_run(place(tmp_path, "plain"), ("a.png", [CAT, DOG], texts)), human)
    kinds = {"the dog": "group", "a dog": "none"}
    found = evaluate_run(model_run(place(tmp_path, "run"), ("a.png", [CAT, DOG], texts), kinds=kinds), human)
    assert whole.sets["kept"]["accuracy"].value == pytest.approx(2 / 3)
    assert found.sets["kept"]["accuracy"].value == 1.0
    assert found.kept == 1
    assert any(note.startswith("2 kept expressions of kind group or none are left out") for note in found.notes)
    assert not any("left out" in note for note in whole.notes)


def test_an_image_whose_annotation_is_quarantined_has_no_truth(tmp_path):
    images = write_images(tmp_path / "images", "a.png", "b.png")
    objects = [object_row(1, 1, CAT), object_row(2, 2, CAT)]
    refs = [reference(1, 1, 1, "a cat"), reference(2, 2, 2, "a cat")]
    rows = [image_row(1, "a.png"), image_row(2, "b.png", height=99)]
    import_small(write_refer(tmp_path / "refcoco", rows, objects, refs), images, place(tmp_path, "truth"))
    truth = HumanTruth.read(place(tmp_path, "truth"))
    assert truth.num_images == 1
    assert truth.of_image(image_id("b.png")) is None


def test_objects_without_a_sentence_measure_masks_alone_and_say_so(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    path = tmp_path / "objects.json"
    path.write_bytes(document([image_row(1, "a.png")], [object_row(1, 1, CAT)]))
    import_small(path, images, place(tmp_path, "truth"), format="coco")
    truth = HumanTruth.read(place(tmp_path, "truth"))
    assert truth.notes == (WITHOUT_SENTENCE,)
    run = model_run(place(tmp_path, "run"), ("a.png", [CAT], {0: ["a cat"]}))
    found = evaluate_run(run, truth)
    assert found.mask_quality["recall_75"].value == 1.0
    assert (found.sets["kept"]["yield"].value, found.sets["kept"]["words"].value) == (1.0, 2.0)
    for name in ("accuracy", "accuracy_on_objects", "coverage"):
        assert found.sets["kept"][name].text(3) == "–"
        assert all(step[name].text(3) == "–" for step in found.differences.values())
    assert all(part.accuracy.text(3) == "–" for _, part in part_titles(found).values())


def test_a_run_of_models_is_no_truth(tmp_path):
    run = model_run(place(tmp_path, "run"), ("a.png", [CAT], {}))
    with pytest.raises(
        ConfigError, match=r"is a run of `pseudoris annotate`, not human annotation.*`pseudoris import`"
    ):
        HumanTruth.read(run)


def test_an_import_that_is_not_complete_is_no_truth(imported, tmp_path):
    shutil.copytree(imported / "truth", tmp_path / "truth")
    (receipt,) = (tmp_path / "truth" / "_receipts").iterdir()
    assert json.loads(receipt.read_text())["shard"] == 0
    receipt.unlink()
    with pytest.raises(ConfigError, match="not complete: 0 of 1 shards"):
        HumanTruth.read(place(tmp_path, "truth"))


TEXT = st.lists(st.sampled_from(["a", "the", "red", "cat", "dog", "left", "!"]), max_size=6).map(" ".join)


def plain_f1(text, sentence):
    own, other = Counter(text_words(text)), Counter(text_words(sentence))
    common = (own & other).total()
    return 2 * common / (own.total() + other.total()) if common else 0.0


@given(st.lists(st.lists(TEXT, max_size=3), max_size=5), TEXT)
def test_scores_are_the_best_f1_of_each_object_and_the_referent_the_only_best(sentences, text):
    truth = HumanImageTruth((1, 1), [], sentences)
    due = [max((plain_f1(text, each) for each in texts), default=0.0) for texts in sentences]
    assert truth.scores(text).tolist() == pytest.approx(due)
    best = max(due, default=0.0)
    only = [number for number, score in enumerate(due) if np.isclose(score, best)]
    assert truth.referents(text) == (frozenset(only) if best > 0 and len(only) == 1 else None)
