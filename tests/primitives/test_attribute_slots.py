"""Attributes that rule each other out, that say the same, and that fit also."""

import pytest

from pseudoris.primitives.attribute_slots import are_opposed, canonical, fits_also

OPPOSED = [
    ("red", "blue"),
    ("navy", "sky blue"),
    ("white", "black brown"),
    ("black shirt", "white t-shirt"),
    ("red hat", "blue cap"),
    ("hat", "helmet"),
    ("shorts", "jeans"),
    ("striped shirt", "plaid t-shirt"),
    ("white shirt", "white sweater"),
    ("standing", "sitting"),
    ("parked", "driving"),
    ("wooden", "plastic"),
    ("tall", "short"),
    ("dark haired", "blond hair"),
    ("black handle", "red handle"),
    ("straw hat", "bush hat"),
]
TOGETHER = [
    ("black", "dark"),
    ("parked", "white"),
    ("cap", "standing"),
    ("silver", "grey"),
    ("black", "black white"),
    ("blue", "dark blue"),
    ("black handle", "wooden handle"),
    ("black handle", "handle"),
    ("red shirt", "blue jacket"),
    ("red", "red shirt"),
    ("suit", "tie"),
    ("tall", "thin"),
    ("leather", "brown"),
    ("holding camera", "holding phone"),
    ("dark hair", "long hair"),
]


@pytest.mark.parametrize(("first", "second"), OPPOSED)
def test_other_values_of_one_slot_are_opposed(first, second):
    assert are_opposed(first, second)
    assert are_opposed(second, first)


@pytest.mark.parametrize(("first", "second"), TOGETHER)
def test_attributes_that_one_thing_may_have_are_not_opposed(first, second):
    assert not are_opposed(first, second)
    assert not are_opposed(second, first)


def test_words_that_say_the_same_have_one_name():
    assert canonical("silver") == canonical("grey") == "gray"
    assert canonical("dark-haired") == canonical("dark hair")
    assert canonical("red cap") == canonical("red hat")


def test_a_person_in_red_clothes_is_in_red_and_a_thing_with_a_red_cap_is_not_red():
    assert fits_also("red dress", "red", is_person=True)
    assert not fits_also("red cap", "red", is_person=False)
    assert not fits_also("red dress", "blue", is_person=True)
    assert fits_also("silver", "grey", is_person=False)
