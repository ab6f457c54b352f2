"""How a text is read, which objects of a scene it refers to, and scenes as a truth: what a file of them must hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.recipes.scene_texts import noisy_caption, realise, to_text
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas.ids import image_id
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.demo import TRUTH_FILE, write_demo
from pseudoris.synthworld.grammar import Description, Group, NamedObject, parse_reference
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import Degree, SceneImageTruth, SceneTruth, lies, referents
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from tests.builders.references import openings, placed, related
from tests.builders.scene_runs import scenes, truth_bytes

references = st.one_of(st.builds(NamedObject, placed), related)


@given(references, st.sampled_from(["", "the"]), openings)
def test_what_is_said_is_what_is_read(reference, article, opening):
    text = f"{opening} {to_text(reference, article=article)}".strip()
    # "the two fish", "all crosses with a tail": only "fish" alone is the same word for one and for several.
    if isinstance(reference, Group) and reference.word == "" and reference.noun.category == "fish":
        assert parse_reference(text) == NamedObject(reference.noun, reference.relation)
    else:
        assert parse_reference(text) == reference


@given(placed, openings, st.booleans())
def test_captions_mean_what_they_meant_and_the_rules_of_the_filter_find_their_head_noun(
    description, opening, is_definite
):
    caption = realise(description, opening=opening, is_definite=is_definite)
    assert parse_reference(caption) == NamedObject(description)
    assert head_noun(caption) == description.category


def test_every_noisy_caption_is_of_the_grammar_and_long_enough_to_end():
    rng = np.random.default_rng(0)
    captions = [noisy_caption(Attributes("circle", "red", "dotted", "small", "tail"), rng) for _ in range(1000)]
    # The start token and four words: the shortest prefix after which decoding may end.
    assert all(isinstance(parse_reference(each), NamedObject) and len(each.split()) >= 4 for each in captions)


def test_adjectives_may_come_in_any_order():
    said = parse_reference("the red small dotted circle")
    assert (
        said
        == parse_reference("the small dotted red circle")
        == NamedObject(Description("circle", "red", "dotted", "small"))
    )


def test_the_article_is_right_before_vowels():
    assert realise(Description("arrow"), opening="a photo of") == "a photo of an arrow"
    assert realise(Description("ring", colour="orange")) == "an orange ring"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a photo of",
            "red",
            "a red",
            "a red blue circle",
            "a small large circle",
            "a circle circle",
            "a rd circle",
        ),
        *("a photo of a photo of a circle", "a photo green circle", "circle a", "the circle left the star"),
        *("a circle with", "a circle with a", "a circle with a circle", "a circle with a hat tail"),
        *("a circle on the moon", "the left", "the left of the circle", "the left of the two circle"),
        *("the left of two circles", "the leftmost circle on the left", "the second circle"),
        *("the second circle from the left of the star", "the circle above", "the circle above the"),
        *(
            "the circle above the stars",
            "the circle above the star on the left",
            "the circle on the left above the star",
        ),
        *("two circle", "all", "both the circle", "the circles circles"),
    ],
)
def test_what_is_not_of_the_grammar_is_not_read(text):
    assert parse_reference(text) is None


def item(category, colour, pattern, size, part=None, centre=(96.0, 96.0)):
    return SceneObject(Attributes(category, colour, pattern, size, part), centre, 20.0, 0.0, (0, 0, 0))


OBJECTS = (
    item("circle", "red", "dotted", "small", "tail", centre=(20.0, 96.0)),
    item("circle", "red", "plain", "large", centre=(170.0, 96.0)),
    item("circle", "blue", "dotted", "small", centre=(96.0, 20.0)),
    item("star", "red", "dotted", "small", "hat", centre=(96.0, 170.0)),
)
SCENE = Scene(0, 0, OBJECTS)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a photo of a circle", {0, 1, 2}),
        ("the red circle", {0, 1}),
        ("the small dotted red circle", {0}),
        ("a circle with a tail", {0}),
        ("a large circle", {1}),
        ("there is a blue circle", {2}),
        ("a star", {3}),
        ("a star with a tail", set()),
        ("a green circle", set()),
        ("a square", set()),
        ("the circle on the left", {0}),
        ("the circle on the right", {1}),
        ("a circle at the top", {2}),
        ("a red star at the bottom", {3}),
        ("the leftmost circle", {0}),
        ("the circle", {0, 1, 2}),
        ("the rightmost red circle", {1}),
        ("left of the two dotted circles", {0}),
        ("the left of the two circles", None),
        ("the left of the two squares", set()),
        ("the upper circle", None),
        ("the upper dotted circle", {2}),
        ("the bottom circle", {0, 1}),
        ("the second circle from the left", {2}),
        ("the fourth circle from the left", None),
        ("the third square from the left", set()),
        ("the middle circle", {2}),
        ("the middle of the three circles", {2}),
        ("the middle red circle", None),
        # The red ones are above the star too, for a lenient listener.
        ("the circle above the star", {0, 1, 2}),
        ("the blue circle above the star", {2}),
        ("the circle below the star", set()),
        ("the circle above the square", set()),
        ("the star under the blue circle", {3}),
        ("the star under a circle", {3}),
        ("the circle left of the large circle", {0, 2}),
        ("the red circle left of the large circle", {0}),
        ("the small circle to the left of the star", {0}),
        ("both dotted circles", {0, 2}),
        ("the three circles", {0, 1, 2}),
        ("all circles", {0, 1, 2}),
        ("the two circles", None),
        ("all stars", {3}),
        ("all green circles", set()),
        ("the two circles on the left", None),
        ("the circles above the star", None),
        ("the dotted circles to the left of the large circle", None),
        ("the red circles to the left of the blue circle", {0}),
        ("both red circles on the left", None),
        # What cannot be read is told apart from what fits nothing.
        ("the circle of the circle", None),
    ],
)
def test_an_expression_means_what_a_person_would_take_it_for(text, meant):
    assert referents(text, SCENE) == meant


def at(x, y):
    return item("circle", "red", "plain", "small", centre=(x, y))


def scene_of(*centres):
    return Scene(0, 0, (*(at(*centre) for centre in centres), item("star", "red", "plain", "large")))


def test_what_is_nearly_aligned_makes_no_expression_right():
    assert referents("the leftmost circle", scene_of((50.0, 20.0), (59.0, 150.0))) == {0, 1}
    assert referents("the leftmost circle", scene_of((50.0, 20.0), (60.0, 150.0))) == {0}
    # One circle is surely left of the star, another only in a way.
    assert referents("the circle left of the star", scene_of((40.0, 96.0), (70.0, 140.0))) == {0, 1}
    assert referents("the circle left of the star", scene_of((70.0, 140.0))) is None
    assert referents("all circles left of the star", scene_of((40.0, 96.0), (70.0, 140.0))) is None
    assert referents("the circle left of the star", scene_of((40.0, 96.0), (90.0, 140.0))) == {0}


@pytest.mark.parametrize(
    ("dx", "dy", "degree"),
    [
        (-40, 0, Degree.YES),
        (-40, 40, Degree.YES),
        (-40, 41, Degree.MAYBE),
        (-40, -80, Degree.MAYBE),
        (-40, 81, Degree.NO),
        (-16, 0, Degree.YES),
        (-15, 0, Degree.MAYBE),
        (-4, 0, Degree.MAYBE),
        (-3, 0, Degree.NO),
        (40, 0, Degree.NO),
        (0, 40, Degree.NO),
    ],
)
def test_left_is_a_step_to_the_left_that_leads_no_further_across(dx, dy, degree):
    anchor = at(100, 100)
    assert lies("left", at(100 + dx, 100 + dy), anchor) is degree
    assert lies("right", at(100 - dx, 100 + dy), anchor) is degree
    assert lies("top", at(100 + dy, 100 + dx), anchor) is degree
    assert lies("bottom", at(100 + dy, 100 - dx), anchor) is degree


LARGE = (
    item("circle", "orange", "plain", "large"),
    item("circle", "blue", "plain", "large", "hat"),
    item("star", "orange", "plain", "large"),
)


def test_a_scene_has_the_masks_that_are_painted():
    scene = make_scene(Split.DEMO, 3)
    truth = SceneImageTruth(scene)
    assert (rle.decode(truth.masks, truth.size) == render(scene).masks).all()
    given = np.zeros((1, 192, 192), dtype=bool)
    assert rle.areas(SceneImageTruth(scene, given).masks, truth.size).tolist() == [0]


@pytest.mark.parametrize(
    ("text", "number", "counts"),
    [
        ("a large plain blue circle with a hat", 1, (5, 5, 5)),
        ("a large plain orange circle", 0, (4, 4, 4)),
        ("the small orange circle with a tail", 0, (4, 2, 4)),
        ("a star on the left", 0, (1, 0, 4)),
        ("no caption at all", 1, (0, 0, 5)),
    ],
)
def test_attributes_are_stated_true_and_known(text, number, counts):
    assert SceneImageTruth(Scene(0, 1, LARGE)).attributes(text, number) == counts


def test_difficulty_and_group_follow_from_the_attributes():
    truth = SceneImageTruth(Scene(0, 1, LARGE))
    assert [truth.num_alike(number) for number in range(3)] == [1, 1, 0]
    assert {truth.group(number) for number in range(3)} <= {"seen", "held_out"}
    assert SceneImageTruth(Scene(0, 1, (item("circle", "red", "plain", "large"),))).group(0) == "held_out"


def test_the_demonstrations_file_is_read_and_broken_files_have_no_truth(tmp_path):
    images = write_demo(tmp_path, num_scenes=3)
    truth = SceneTruth.from_json((tmp_path / TRUTH_FILE).read_bytes(), "truth.json")
    assert (truth.num_images, truth.example_key) == (3, "scene-000.png")
    assert truth.of_image(image_id("broken-text.jpg")) is None
    assert (images / "broken-text.jpg").exists()
    found = truth.of_image(image_id("scene-002.png"))
    assert found is not None
    assert found.masks == SceneImageTruth(make_scene(Split.DEMO, 2)).masks


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1}', b'{"a": {"seed": 0}}', b"\xff", b"[" * 100_000])
def test_what_is_no_truth_is_refused_by_its_name(data):
    with pytest.raises(ConfigError, match=r"here/truth\.json is not a truth of the synthetic world"):
        SceneTruth.from_json(data, "here/truth.json")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("objects", 0, "attributes", "category"), "cube", "has the category 'cube'"),
        (("objects", 0, "attributes", "colour"), None, "not a truth of the synthetic world"),
        (("objects", 0, "radius_px"), 1e9, "Up to 192 pixels"),
        (("objects", 0, "centre_xy_px"), [float("nan"), 3.0], "Up to 192 pixels"),
        (("objects",), [], "has no object"),
        (("seed",), -1, "seed -1"),
    ],
)
def test_what_cannot_be_painted_is_refused(path, value, match):
    tree = json.loads(truth_bytes(scenes(1)))
    place = tree["scene-000.png"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=match):
        SceneTruth.from_json(json.dumps(tree).encode(), "truth.json")
