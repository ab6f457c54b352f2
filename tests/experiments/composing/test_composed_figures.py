"""Composed expressions are counted for what they are: right by the oracle, of one mask, of several, of none."""

from dataclasses import replace

import pytest

from experiments.composing.composed_figures import AFTER, BEFORE, COMPOSED, COMPOSING, as_tree, measure
from pseudoris.schemas.shard import SOURCE_COMPOSER, CaptionSample, ExpressionRecord
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_shards import scene_image, scene_shard

DRAW = CaptionSample("masked", "top_p", None, 0.5, -1.0)


def item(category, colour, x):
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


SCENE = Scene(0, 0, (item("circle", "blue", 40.0), item("circle", "red", 100.0), item("star", "red", 160.0)))
# Who is meant, the text, its kind; the third is wrong, and so is the last but one.
SAID = (
    ((0,), "the leftmost circle", "position"),
    ((1,), "the red circle to the right of the blue circle", "relation"),
    ((2,), "the star on the left", "position"),
    ((0, 1), "the two circles", "group"),
    ((0, 2), "the two circles", "group"),
    ((), "the green star", "none"),
)


@pytest.fixture
def image():
    """The scene with its true masks, and "a star" drawn, kept and right, "a circle" drawn, kept and wrong."""
    image = scene_shard([scene_image(SCENE)], with_true_masks=True).images[0]
    ids = [mask.mask_id for mask in image.masks]
    drawn = (
        ExpressionRecord((ids[2],), "a star", (DRAW,), kept=True, head_noun="star"),
        ExpressionRecord((ids[0],), "a circle", (DRAW,), kept=True, head_noun="circle"),
        ExpressionRecord((ids[1],), "a red circle", (DRAW,), kept=False, head_noun="circle"),
    )
    return replace(image, expressions=drawn)


@pytest.fixture
def measured(image):
    def compose(given):
        ids = [mask.mask_id for mask in given.masks]
        said = (
            ExpressionRecord(tuple(ids[n] for n in targets), text, (), kind=kind, kept=True, source=SOURCE_COMPOSER)
            for targets, text, kind in SAID
        )
        return replace(given, expressions=(*given.expressions, *said))

    return measure([SCENE], [image], compose)


def test_accuracy_and_coverage_before_and_of_what_is_composed_of_one_mask(measured):
    value = {name: estimate.value for name, estimate in measured.estimates.items()}
    assert value[f"{BEFORE}.accuracy"] == pytest.approx(1 / 2)
    assert value[f"{BEFORE}.coverage"] == pytest.approx(1 / 3)
    assert value[f"{COMPOSED}.accuracy"] == pytest.approx(2 / 3)
    assert value[f"{COMPOSED}.coverage"] == pytest.approx(2 / 3)
    assert value[f"{COMPOSED}.yield"] == pytest.approx(3 / 3)


def test_groups_and_absences_are_no_expressions_of_a_mask(measured):
    value = {name: estimate.value for name, estimate in measured.estimates.items()}
    # Two kept and three composed, of three masks; three of the five are right.
    assert value[f"{AFTER}.yield"] == pytest.approx(5 / 3)
    assert value[f"{AFTER}.accuracy"] == pytest.approx(3 / 5)
    assert value[f"{AFTER}.coverage"] == pytest.approx(3 / 3)
    assert value[f"{AFTER} - {BEFORE}.coverage"] == pytest.approx(2 / 3)
    assert measured.counts[AFTER] == measured.counts[BEFORE] + measured.counts[COMPOSED] == 5


def test_a_negative_is_right_where_it_does_not_mean_its_mask(image):
    ids = [mask.mask_id for mask in image.masks]
    # Rejected for a rival: "a star" of a circle; rejected, but true; kept; and one that no rival fits much better.
    drawn = (
        ExpressionRecord((ids[0],), "a star", (DRAW,), kept=False, distinctiveness=0.5, rival_mask_id=ids[2]),
        ExpressionRecord((ids[2],), "a star", (DRAW,), kept=False, distinctiveness=0.7, rival_mask_id=ids[0]),
        ExpressionRecord((ids[1],), "a star", (DRAW,), kept=True, distinctiveness=0.5, rival_mask_id=ids[2]),
        ExpressionRecord((ids[1],), "a circle", (DRAW,), kept=False, distinctiveness=0.9, rival_mask_id=ids[0]),
    )
    found = measure([SCENE], [replace(image, expressions=drawn)], COMPOSING).estimates
    assert found["negative.accuracy"].value == pytest.approx(1 / 2)
    assert found["negative.yield"].value == pytest.approx(2 / 3)


def test_each_kind_counts_apart_and_an_absence_is_right_where_nothing_fits(measured):
    value = {name: estimate.value for name, estimate in measured.estimates.items()}
    counts = {"position": 2, "relation": 1, "group": 2, "none": 1}
    assert {kind: value[f"kind.{kind}"] for kind in counts} == {
        "position": 0.5,
        "relation": 1.0,
        "group": 0.5,
        "none": 1.0,
    }
    assert {kind: measured.counts[kind] for kind in counts} == counts


def test_what_is_said_to_be_so_likely_is_counted_by_bins_and_only_where_it_is_said(image, measured):
    assert measured.reliability == {}
    ids = [mask.mask_id for mask in image.masks]
    # Right, wrong, right; a group counts in no bin.
    said = (((0,), "the leftmost circle", 0.92), ((1,), "the star", 0.92), ((2,), "the star", 1.0))
    rows = [
        ExpressionRecord((ids[n],), text, (), kind="position", kept=True, source=SOURCE_COMPOSER, confidence=sure)
        for (n,), text, sure in said
    ]
    group = ExpressionRecord(
        (ids[0], ids[1]), "the two circles", (), kind="group", source=SOURCE_COMPOSER, confidence=0.5
    )
    found = measure([SCENE], [image], lambda given: replace(given, expressions=(*rows, group)))
    assert found.reliability == {0.9: (2, 1), 0.97: (1, 1)}
    assert as_tree(found)["reliability"][0] == {"from": 0.9, "number": 2, "right": 1}
