"""The world of everyday things: what is true there, by examples made by hand, and that a seed gives equal images."""

import random
from collections import defaultdict

import numpy as np
import pytest

from evidence.experiments.composing.everyday_colours import shares
from evidence.experiments.composing.everyday_truth import Thing, is_right
from evidence.experiments.composing.everyday_world import Condition, World
from pseudoris.primitives.pixel_colours import NAMES

RED, BLUE = {"colour": ["red"]}, {"colour": ["blue"]}
# Three cars from left to right, the last near and large, and a man with a mask or without.
THINGS = [
    Thing("car", ("car", "vehicle"), RED, frozenset({"on a street"}), depth=0.2, x=0.1, y=0.3),
    Thing("car", ("car", "sedan", "vehicle"), {**BLUE, "age": ["old", "vintage"]}, depth=0.4, x=0.45, y=0.5),
    Thing("car", ("car", "vehicle"), BLUE, depth=0.9, x=0.9, y=0.5),
    Thing("man", ("man", "person"), {"worn": ["in a red shirt"]}, frozenset({"red", "red shirts"}), x=0.3, y=0.5),
]


@pytest.mark.parametrize(
    ("text", "targets", "expected"),
    [
        ("the car", [0], False),
        ("the red car", [0], True),
        ("the red car", [1], False),
        ("the red car on a street", [0], True),
        ("the blue car on a street", [1], False),
        ("the vintage sedan", [1], True),
        ("the vehicle", [0], False),
        ("the man wearing a red shirt", [3], True),
        ("the man in red", [3], True),
        ("the leftmost car", [0], True),
        ("the leftmost car", [None], False),
        ("the left of the two blue cars", [1], True),
        ("the left of the two cars", [0], False),
        ("the second car from the right", [1], True),
        ("the car on the left", [0], False),
        ("the blue car on the left", [1], False),
        ("the car on the right", [2], True),
        ("the car in front", [2], True),
        ("the car in the back", [0], True),
        ("the car to the right of the man", [1], False),
        ("the vintage car to the right of the man", [1], True),
        ("the man to the left of the car", [3], False),
        ("the two blue cars", [1, 2], True),
        ("all cars", [0, 1], False),
        ("the three cars", [0, 1, 2], True),
        ("the green car", [], True),
        ("the person", [], False),
    ],
)
def test_a_text_is_right_of_its_targets_alone_with_a_mask_or_without(text, targets, expected):
    assert is_right(text, targets, THINGS) is expected


def test_a_seed_gives_equal_images_and_equal_things_under_each_condition():
    noisy, exact = Condition(background=0.3, systematic=0.1), Condition(is_exact=True)
    assert World().draw(5, noisy) == World().draw(5, noisy)
    drawn, other = World().draw(5, noisy), World().draw(5, exact)
    assert drawn.things == other.things
    assert None in drawn.of_mask
    assert [other.things[each].is_whole for each in other.of_mask].count(False) == 0
    assert sum(len(each.samples) for each in drawn.image.expressions) == 14 * len(drawn.image.masks)


def test_a_listener_scores_what_is_drawn_often_above_what_is_drawn_once():
    by_mask = defaultdict(list)
    for each in World().draw(5, Condition()).image.expressions:
        by_mask[each.target_mask_ids].append((len(each.samples), each.caption_score))
    often = [max(rows)[1] > min(rows)[1] for rows in by_mask.values() if max(rows)[0] > 1]
    assert len(often) > 5
    assert sum(often) > 0.8 * len(often)


def test_pixels_have_the_colours_of_a_thing_and_by_chance_others():
    draw, thing = random.Random(0), Thing("dog", ("dog",), {"fur": ("brown",), "worn": ("in a red shirt",)})
    found = np.array([shares(thing, draw) for _ in range(200)]) > 0
    of_name = dict(zip(NAMES, found.mean(axis=0), strict=True))
    assert min(of_name["brown"], of_name["red"]) > 0.9
    assert 0.2 < max(of_name["blue"], of_name["pink"]) < 0.6
