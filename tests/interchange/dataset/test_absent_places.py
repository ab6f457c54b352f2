"""What is absent gets a place, and means nothing there either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.absences import absent_texts
from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, SampleSpec
from pseudoris.interchange.dataset.absent_places import placed_absence
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.synthworld.grammar import Extreme, NamedObject, Ordinal, parse_reference
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split, make_scene
from tests.interchange.dataset.builders import build_run, composed_rows

OTHERS = ["a photo of a star", "the star above the box", "the leftmost star"]


def placed(text, others=OTHERS, count=400):
    return [placed_absence(text, others, key=7, turn=turn) for turn in range(count)]


def test_half_of_the_draws_keep_the_words_and_the_others_have_every_kind_of_place():
    drawn = placed("the red circle", ["a photo of a star"])
    assert 160 < drawn.count("the red circle") < 240
    assert {
        *("the red circle", "the red circle on the left", "the topmost red circle", "the left of the two red circles"),
        *("the third red circle from the top", "the red circle above the star", "the star below the red circle"),
    } <= set(drawn)
    assert drawn == placed("the red circle", ["a photo of a star"])


def test_the_other_side_of_a_relation_is_a_text_of_the_image_without_a_place():
    related = {text for text in placed("the red circle") if "star" in text}
    assert related
    assert all(text.count("star") == 1 and "box" not in text and "leftmost" not in text for text in related)
    assert not any("star" in text for text in placed("the red circle", []))


@pytest.mark.parametrize(
    "text",
    [
        *("the red circle on the left", "the circle above the star", "the dog is red", "two dogs", "no dog here", ""),
        *("near a dog", "riding a horse", "the half circle", "the second red circle"),
    ],
)
def test_a_text_with_a_place_or_that_is_no_noun_phrase_stays(text):
    assert set(placed(text)) == {text}


def test_on_drawn_scenes_every_placed_absence_means_nothing():
    scenes = [make_scene(Split.TRAIN, at) for at in range(4)]
    kinds = set()
    for at, scene in enumerate(scenes):
        truth = SceneImageTruth(scene)
        others = [f"the {item.attributes.category}" for item in scene.objects]
        for text in absent_texts(scenes, at):
            for drawn in set(placed(text, others, 40)):
                assert truth.referents(drawn) == frozenset(), (text, drawn)
                kinds.add(type(parse_reference(drawn)))
    assert kinds >= {NamedObject, Extreme, Ordinal}


def rows(number):
    *_, (_, _, fields) = composed_rows(number)
    return [(0, "the tree", {}), (1, "the leftmost tree", {}), ((), "the red circle", fields)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("placed"), rows=rows).location


SPEC = SampleSpec(parts=("text",), none=0.5, rewording=True)


def test_a_dataset_places_absences_beside_texts_of_their_image(machine):
    mapped, stream, said = RisDataset(machine, SPEC), RisIterableDataset(machine, SPEC), set()
    for epoch in range(4):
        mapped.set_epoch(epoch)
        stream.set_epoch(epoch)
        absent = {each["mask_id"]: each for each in mapped if not each["num_masks"]}
        assert absent == {each["mask_id"]: each for each in stream if not each["num_masks"]}
        for sample in absent.values():
            assert sample["row_texts"] == ["the red circle"]
            is_row = sample["expressions"] == sample["row_texts"]
            assert sample["sources"] == [SOURCE_COMPOSER if is_row else "reworded"]
            said.update(sample["expressions"])
    assert any(text.endswith("the tree") for text in said)
    assert any(text.startswith("the tree") for text in said)
    assert any("most red circle" in text for text in said)


def test_what_is_there_is_never_placed_and_without_rewording_neither_is_an_absence(machine):
    present = [each for each in RisDataset(machine, SPEC) if each["num_masks"] == 1]
    assert present
    assert {text for each in present for text in each["expressions"]} <= {
        *("the tree", "tree", "the leftmost tree", "leftmost tree")
    }
    absent = [each for each in RisDataset(machine, replace(SPEC, rewording=False)) if not each["num_masks"]]
    assert {text for each in absent for text in each["expressions"]} == {"the red circle"}
