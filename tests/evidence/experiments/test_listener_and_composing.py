"""Weights that are fitted to judged scenes, and what is composed with them, by the oracle's word."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from evidence.experiments.composing.composed_figures import AFTER, BEFORE, COMPOSED, COMPOSING, as_tree, measure
from evidence.experiments.composing.many_names import NamedTruth
from evidence.experiments.composing.posterior_fit import fitted_weights
from evidence.experiments.listener.judged_scenes import COMPOSERS, SceneRows, scene_rows
from evidence.experiments.listener.listener_gain import AIMS, COUNTS, RULES, gain_report, measure_labels
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import SOURCE_COMPOSER, CaptionSample, ExpressionRecord
from pseudoris.synthworld.scenes import Scene, Split, make_scene
from pseudoris.training.calibration.confidence_fit import NOTHING_KEPT
from tests.builders.scene_runs import judged_scene, with_true_masks
from tests.builders.scene_runs import plain_object as item

DRAW = CaptionSample("masked", "top_p", None, 0.5, -1.0)
SCENE = Scene(0, 0, (item("circle", "orange", 40.0), item("star", "blue", 96.0), item("heart", "orange", 150.0)))
TRUE = {0: ("circle", "orange"), 1: ("star", "blue"), 2: ("heart", "orange")}


def image(*said, correctness):
    """The scene with its true masks; `said` are (object, text, noun, draws), correctness by whether a noun is true."""
    rows = (
        (at, text, {"samples": (DRAW,) * draws, "head_noun": noun, "correctness": correctness[noun == TRUE[at][0]]})
        for at, text, noun, draws in said
    )
    plain = with_true_masks(SCENE, *rows)
    return replace(plain, masks=tuple(replace(each, predicted_iou=0.9, stability_score=0.9) for each in plain.masks))


def test_correctness_weighs_where_it_tells_the_noun_and_nothing_where_it_misleads():
    # The wrong noun is drawn as often as the true one, and so is a wrong colour.
    said = [
        (number, f"a {colour} {noun}", noun, 5)
        for number, (true, _) in TRUE.items()
        for noun in (true, "moon")
        for colour in ("orange", "blue")
    ]
    telling = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.8, False: 0.3})] * 4, "draws")
    misleading = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.3, False: 0.8})] * 4, "draws")
    assert telling.noun_correctness > 1.0
    assert misleading.noun_correctness == 0.0


def test_the_share_of_a_word_against_what_replaces_it_weighs():
    said = []
    for number, (noun, colour) in TRUE.items():
        other = "blue" if colour == "orange" else "orange"
        said += [(number, f"a {colour} {noun}", noun, 8), (number, f"a {other} {noun}", noun, 2)]
    found = fitted_weights([SCENE] * 4, [image(*said, correctness={True: 0.8, False: 0.3})] * 4, "draws")
    assert found.word_against > 0.5
    assert found.counts == "draws"


def test_a_part_of_an_object_is_learnt_to_be_none():
    said = [(number, f"a {colour} {noun}", noun, 5) for number, (noun, colour) in TRUE.items()]
    said += [(0, "a blue circle", "circle", 1), (1, "a moon", "moon", 1)]
    whole = image(*said, correctness={True: 0.8, False: 0.3})
    # A second mask of the first object's pixels: one of the two at most is its.
    first = whole.masks[0]
    part = replace(first, mask_id=mask_id(whole.image_id, 9), index=9)
    found = fitted_weights([SCENE] * 4, [replace(whole, masks=(*whole.masks, part))] * 4, "draws")
    assert found.object_overlap < -1.0


TWO_CIRCLES = Scene(0, 0, (item("circle", "blue", 40.0), item("circle", "red", 100.0), item("star", "red", 160.0)))
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
def painted():
    """The scene with its true masks, and "a star" drawn, kept and right, "a circle" drawn, kept and wrong."""
    drawn = (
        (2, "a star", {"kept": True, "head_noun": "star"}),
        (0, "a circle", {"kept": True, "head_noun": "circle"}),
        (1, "a red circle", {"kept": False, "head_noun": "circle"}),
    )
    return with_true_masks(TWO_CIRCLES, *drawn, samples=(DRAW,))


@pytest.fixture
def measured(painted):
    def compose(given):
        ids = [mask.mask_id for mask in given.masks]
        said = (
            ExpressionRecord(tuple(ids[n] for n in targets), text, (), kind=kind, kept=True, source=SOURCE_COMPOSER)
            for targets, text, kind in SAID
        )
        return replace(given, expressions=(*given.expressions, *said))

    return measure([TWO_CIRCLES], [painted], compose)


def test_what_is_composed_counts_by_its_kind_and_only_what_means_one_mask_among_the_expressions_of_masks(measured):
    value = {name: estimate.value for name, estimate in measured.estimates.items()}
    due = {
        **{f"{BEFORE}.accuracy": 1 / 2, f"{BEFORE}.coverage": 1 / 3},
        **{f"{COMPOSED}.accuracy": 2 / 3, f"{COMPOSED}.coverage": 2 / 3, f"{COMPOSED}.yield": 3 / 3},
        # Two kept and three composed, of three masks; three of the five are right.
        **{f"{AFTER}.yield": 5 / 3, f"{AFTER}.accuracy": 3 / 5, f"{AFTER}.coverage": 3 / 3},
        f"{AFTER} - {BEFORE}.coverage": 2 / 3,
        **{"kind.position": 0.5, "kind.relation": 1.0, "kind.group": 0.5, "kind.none": 1.0},
    }
    assert {name: value[name] for name in due} == pytest.approx(due)
    counts = {BEFORE: 2, COMPOSED: 3, AFTER: 5, "position": 2, "relation": 1, "group": 2, "none": 1}
    assert {name: measured.counts[name] for name in counts} == counts


def test_a_negative_is_right_where_it_does_not_mean_its_mask(painted):
    ids = [mask.mask_id for mask in painted.masks]
    # Rejected for a rival: "a star" of a circle; rejected, but true; kept; and one that no rival fits much better.
    drawn = (
        ExpressionRecord((ids[0],), "a star", (DRAW,), kept=False, distinctiveness=0.5, rival_mask_id=ids[2]),
        ExpressionRecord((ids[2],), "a star", (DRAW,), kept=False, distinctiveness=0.7, rival_mask_id=ids[0]),
        ExpressionRecord((ids[1],), "a star", (DRAW,), kept=True, distinctiveness=0.5, rival_mask_id=ids[2]),
        ExpressionRecord((ids[1],), "a circle", (DRAW,), kept=False, distinctiveness=0.9, rival_mask_id=ids[0]),
    )
    found = measure([TWO_CIRCLES], [replace(painted, expressions=drawn)], COMPOSING).estimates
    assert found["negative.accuracy"].value == pytest.approx(1 / 2)
    assert found["negative.yield"].value == pytest.approx(2 / 3)


def test_what_is_said_to_be_so_likely_is_counted_by_bins_and_only_where_it_is_said(painted, measured):
    assert measured.reliability == {}
    ids = [mask.mask_id for mask in painted.masks]
    # Right, wrong, right; a group counts in no bin.
    said = (((0,), "the leftmost circle", 0.92), ((1,), "the star", 0.92), ((2,), "the star", 1.0))
    rows = [
        ExpressionRecord((ids[n],), text, (), kind="position", kept=True, source=SOURCE_COMPOSER, confidence=sure)
        for (n,), text, sure in said
    ]
    group = ExpressionRecord(
        (ids[0], ids[1]), "the two circles", (), kind="group", source=SOURCE_COMPOSER, confidence=0.5
    )
    found = measure([TWO_CIRCLES], [painted], lambda given: replace(given, expressions=(*rows, group)))
    assert found.reliability == {0.9: (2, 1), 0.97: (1, 1)}
    assert as_tree(found)["reliability"][0] == {"from": 0.9, "number": 2, "right": 1}


# Of this scene: 0 to 2 crowns, 3 and 4 mushrooms, 5 a tree, 6 a triangle at the bottom, 7 a ring at the left.
NAMED_SCENE = make_scene(Split.DEVELOPMENT, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("the coronet", {0, 1, 2}),
        ("the green tiara", {0}),
        ("the hoop", {7}),
        ("the shape", {6, 7}),
        ("the leftmost shape", {7}),
        ("the three plants", {3, 4, 5}),
        ("all toys", {0, 1, 2}),
        ("a symbol", set()),
        ("a disk", set()),
        ("the plant to the right of the toy", {4, 5}),
        ("the tiara above the shape", {0, 1, 2}),
        ("the shape below the hoop", {6}),
        ("the gizmo", None),
    ],
)
def test_a_text_means_what_its_names_are_true_of(text, meant):
    assert NamedTruth(NAMED_SCENE).referents(text) == meant


HEARD = {"caption_score": -1.0, "listener": 0.5, "truth": -0.3}
annotated = partial(with_true_masks, TWO_CIRCLES, samples=(DRAW,), **HEARD)


def test_each_candidate_has_its_scores_whether_it_is_right_and_what_it_was_said_of():
    scores = {"caption_score": -2.0, "listener": 0.9, "truth": -0.5, "uniqueness": 1.2, "correctness": 0.7}
    rows = scene_rows(
        TWO_CIRCLES,
        annotated(
            (2, "a star", {**scores, "distinctiveness": 1.4, "grounding_share": 0.8, "samples": (DRAW, DRAW)}),
            (0, "a circle", {"kept": True}),
        ),
    )
    assert rows.rated.texts == ["a star", "a circle"]
    assert list(rows.rated.scores) == list(CONFIDENCE_COLUMNS)
    assert {name: column[0] for name, column in rows.rated.scores.items()} == {
        **scores,
        "distinctiveness": 1.4,
        "count": 2.0,
        "grounding_share": 0.8,
    }
    # What was not scored, as of a lone mask, is NaN and no zero; draws are counted of any.
    assert np.isnan([rows.rated.scores[name][1] for name in CONFIDENCE_COLUMNS if name not in (*HEARD, "count")]).all()
    assert rows.rated.scores["count"][1] == 1.0
    assert rows.is_right.tolist() == [True, False]
    assert rows.targets.tolist() == [2, 0]


def test_masks_and_visible_objects_are_counted_though_a_mask_is_missing():
    image = annotated((0, "a blue circle", {}))
    rows = scene_rows(TWO_CIRCLES, replace(image, masks=image.masks[:2]))
    assert (rows.num_masks, rows.num_visible) == (2, 3)
    assert rows.rated.groups == [image.masks[0].mask_id]


def drawn(seed: int) -> SceneRows:
    judged = judged_scene(seed)
    return SceneRows(judged.rated, judged.is_right, judged.targets, 3, 4, is_right_by_sentences=judged.is_right[::-1])


@pytest.mark.slow
def test_labels_are_counted_from_none_to_all_and_no_verdict_moves_the_first_row():
    scenes = [drawn(seed) for seed in range(30)]
    asked = {"test": scenes[20:], "second": scenes[:5]}
    found = measure_labels(scenes[:20], asked, (0.5, 1.0))
    assert [row["scenes"] for row in found if row["rule"] == "all" and row["labels"] == "oracle"] == [
        count for count in COUNTS if count <= 20
    ]
    whole = next(row for row in found if row["scenes"] == 20 and row["labels"] == "oracle")
    assert (whole["draws"], whole["test"]["accuracy"]["std"]) == (1, None)
    few = next(row for row in found if row["scenes"] == 5)
    assert few["test"]["accuracy"]["least"] <= few["test"]["accuracy"]["mean"]
    assert few["candidates_a_scene"] == 36.0
    wrong = [replace(scene, is_right=~scene.is_right) for scene in scenes[:20]]
    again = measure_labels(wrong, asked, (0.5, 1.0))
    assert again[0] == found[0]
    assert again[1] != found[1]


def test_each_aim_has_figures_of_every_rule_in_every_world_and_a_composer_that_says_nothing_changes_none():
    silent = dict.fromkeys(COMPOSERS, NOTHING_KEPT)
    scenes = [replace(drawn(seed), composed=silent) for seed in range(12)]
    report = gain_report(scenes[:8], {"test": scenes[8:], "second": scenes[:3]})
    assert [(aim["coverage"], aim["yield"]) for aim in report["aims"]] == list(AIMS)
    assert report["scenes"] == {"development": 8, "test": 4, "second": 3}
    for aim in report["aims"]:
        assert list(aim["bounds"]) == list(aim["development"]) == list(RULES)
        for world in ("test", "second"):
            assert list(aim[world]["rules"]) == ["right", "paper", "preset", *RULES]
            assert aim[world]["rules"]["right"]["accuracy"]["value"] == 1.0
        step = aim["test"]["steps"]["all+weighing composer - all"]
        assert {figure: each["value"] for figure, each in step.items()} == dict.fromkeys(step, 0.0)
