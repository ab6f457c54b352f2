"""Kinds of nouns: what the shipped table and its lookups must say of names that captions have."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence.recipes import kinds as recipe
from pseudoris.primitives.kinds import (
    basic_names,
    fits_anything,
    is_same,
    is_wider,
    kind_of,
    says_several,
    supported_name,
    truth,
    wider_names,
)

WORDNET = Path("/usr/share/wordnet")
COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
APART = (
    "cat man,dog person,hot dog dog,corn dog dog,sea lion lion,guinea pig pig,prairie dog dog,starfish fish,"
    "jellyfish fish,seahorse horse,seahorse walrus,park stadium,man woman,boy girl,cat dog,fork knife,car train,"
    "bat animal,mouse animal,mannequin person,toilet room,bicycle container,skateboard container,glasses glass,"
    "bowling pin pin,cd player person,town hall hallway,rolling pin jewelry,christmas tree person,ice cream cream,"
    "fan person,seal person,bottle cap hat,mountain bike motorcycle,dirt bike bicycle,orange plant,balloon vehicle,"
    "steam engine motor"
)
KIN = (
    "van vehicle,train vehicle,mug cup,people person,crowd person,boy child,girl child,sedan car,seagull bird,guy man,"
    "lady woman,dog animal,wine glass glass,taxi car,police car vehicle,oak tree,rose flower,knife cutlery,"
    "stop sign sign,apple fruit,carrots vegetable,soldier person,waitress woman,pickup truck,kayak boat,"
    "armchair furniture,hoodie clothing,kitten cat,red fire trucks truck,chocolate cake cake,"
    "bike bicycle,bike motorcycle,baseball cap hat,bow tie tie,mountain bike bicycle"
)
SAME = (
    "sofa couch,plane airplane,tv television,fridge refrigerator,doughnut donut,cellphone cell phone,tie necktie,"
    "remote remote control,hat cap,suitcase luggage,boat ship,monitor television"
)


def names(text):
    return text.split(",")


def pair(text):
    """The two names of a pair, where either may have two words: the split at which the table knows both."""
    words = text.split()
    ways = ((" ".join(words[:at]), " ".join(words[at:])) for at in range(len(words) - 1, 0, -1))
    return next(way for way in ways if all(kind_of(each) for each in way))


@pytest.mark.parametrize("text", names(APART))
def test_names_of_different_things_are_not_kin(text):
    one, other = pair(text)
    assert not is_same(one, other)
    assert not is_wider(one, other)
    assert not is_wider(other, one)


@pytest.mark.parametrize("text", names(KIN))
def test_a_wider_name_is_true_of_the_narrower(text):
    narrow, wide = pair(text)
    assert is_wider(wide, narrow) or is_same(wide, narrow)
    assert truth(wide, narrow) == 1.0


def test_synonyms_and_plurals_are_one_kind():
    assert all(is_same(*pair(text)) for text in names(SAME))
    assert [kind_of(each) for each in ("wine glasses", "knives", "men", "geese", "gizmo")] == [
        *("wine glass", "knife", "man", "goose"),
        None,
    ]
    assert [says_several(each) for each in ("dogs", "people", "crowd", "scissors", "glasses", "glass", "bus")] == [
        *(True, True, True, False, False, False, False)
    ]


def test_every_category_of_coco_is_known_and_has_a_basic_name():
    assert {name for name in names(COCO) if kind_of(name) is None or len(basic_names(name)) != 1} == set()
    assert [basic_names(name) for name in ("sedan", "wine glass", "seagull", "vehicle", "animal", "thing")] == [
        *(("car",), ("glass",), ("bird",)),
        *((), (), ()),
    ]


def test_no_name_is_wider_than_itself():
    by_hand = recipe.read_by_hand()
    assert {name for name in by_hand.names if kind_of(name) in wider_names(name)} == set()
    assert all(wider_names(wide) <= wider_names(name) for name in by_hand.names for wide in wider_names(name))


@pytest.mark.parametrize(
    ("shares", "name", "share"),
    [
        ({"car": 5, "sedan": 3, "vehicle": 5, "object": 9, "boat": 1}, "car", 8 / 9),
        ({"person": 5, "man": 4, "guy": 2, "skateboarder": 2, "people": 1}, "man", 1.0),
        ({"man": 5, "woman": 5}, "person", 1.0),
        ({"person": 13, "man": 1}, "person", 1.0),
        ({"dog": 5, "cat": 5}, "animal", 1.0),
        ({"bear": 8, "toy": 2, "animal": 2}, "bear", 1.0),
        ({"gizmo": 9, "car": 1}, "gizmo", 0.9),
    ],
)
def test_a_mask_is_called_by_the_basic_name_that_its_draws_support(shares, name, share):
    found = supported_name(shares)
    assert found is not None
    assert (found.name, found.share, found.is_several) == (name, pytest.approx(share), False)


def test_nothing_is_supported_by_draws_that_agree_in_nothing():
    assert supported_name({"object": 9, "thing": 4}) is None
    assert supported_name({"dog": 5, "umbrella": 5}) is None
    assert fits_anything("things")


def test_a_mask_that_mostly_says_several_is_a_group():
    found = supported_name({"giraffes": 6, "giraffe": 2})
    assert found is not None
    assert (found.name, found.is_several) == ("giraffe", True)


def test_kin_exclude_each_other_and_a_wider_name_may_be_true():
    assert [truth(*each) for each in (("cat", "dog"), ("man", "woman"), ("man", "person"), ("man", "soldier"))] == [
        *(0.0, 0.0, 0.5, 0.5)
    ]
    assert [truth(*each) for each in (("man", "waitress"), ("person", "waitress"), ("car", "object"))] == [
        0.0,
        1.0,
        0.5,
    ]


@pytest.mark.skipif(not WORDNET.is_dir(), reason="needs /usr/share/wordnet of Debian's wordnet-base")
def test_the_shipped_table_is_what_the_recipe_makes():
    made = recipe.table_of(recipe.read_wordnet(WORDNET), recipe.read_by_hand())
    assert recipe.TABLE.read_text() == made
    assert len(made.encode()) < 300_000
    assert 2_000 <= made.count("\n") <= 3_000


def test_other_files_than_those_of_the_release_are_refused(tmp_path):
    (tmp_path / "data.noun").write_text("changed")
    with pytest.raises(ValueError, match=r"data\.noun has the sha256"):
        recipe.read_wordnet(tmp_path)
