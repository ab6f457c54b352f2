"""What a caption says of the thing that it is about. All captions are our own."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun, noun_phrases, noun_prompt
from pseudoris.primitives.noun_phrases import NounPhrase, content_of, english_among, implies, is_sayable, noun_phrase
from pseudoris.schemas.config import FilterConfig, WeightsConfig
from pseudoris.workers.filtering.spacy_nouns import noun_finder


def phrase(caption):
    return noun_phrase(caption, head_noun(caption))


@pytest.mark.parametrize(
    ("caption", "before", "noun", "after"),
    [
        ("a photo of a small dotted circle with a tail", ("small", "dotted"), "circle", ("with a tail",)),
        ("a close up of a brown dog", ("brown",), "dog", ()),
        ("there is a fire truck parked near a wall", ("parked", "fire"), "truck", ()),
        ("an image of a hot dog on a plate", (), "hot dog", ()),
        ("an old man in a red shirt feeding a horse", ("old",), "man", ("in a red shirt", "feeding a horse")),
        ("a woman who is wearing a blue coat and a hat", (), "woman", ("wearing a blue coat", "wearing a hat")),
        ("a circle that is red and has a tail", ("red",), "circle", ("with a tail",)),
        ("a red circle that is small", ("small", "red"), "circle", ()),
        ("the nurse's left hand", ("nurse's",), "hand", ()),
        ("a girl rides a pony through a gate", (), "girl", ("riding a pony",)),
        ("a boy looking at the clouds", (), "boy", ("looking at the clouds",)),
        ("a basket filled with lemons on a shelf", (), "basket", ("filled with lemons",)),
        ("a bowl of cherries sitting on a mat", ("sitting",), "bowl", ("of cherries",)),
        ("a black and white goat", ("black and white",), "goat", ()),
        ("a light blue scooter", ("light blue",), "scooter", ()),
        ("a strange looking bird", ("strange looking",), "bird", ()),
        ("a meadow with mountains in the background", (), "meadow", ()),
        ("a man holding a drill while a woman watches him", (), "man", ("holding a drill",)),
        ("a goose standing in a pond next to a boat with a flag", ("standing",), "goose", ()),
        ("the man on the left", (), "man", ()),
        ("a girl with a kite in her hand", (), "girl", ("with a kite in her hand",)),
        ("man left", (), "man", ()),
        ("a chair that is on the left", (), "chair", ()),
        ("a rolled up towel", ("rolled up",), "towel", ()),
        ("a red double decker bus", ("red", "double decker"), "bus", ()),
        ("a black - haired nurse", ("black-haired",), "nurse", ()),
        ("a very very small teapot...", ("very small",), "teapot", ()),
        ("a bagel that is cut in half", ("cut",), "bagel", ()),
        ("a half peeled lemon", ("half peeled",), "lemon", ()),
        ("a half empty jug", ("half empty",), "jug", ()),
        ("an old green or purple scooter", (), "scooter", ()),
        ("a nurse with a cane or crutch", (), "nurse", ()),
        ("a goat next to a girl in a yellow coat", (), "goat", ()),
        ("a goat next to a girl looking at the clouds", (), "goat", ()),
        ("the boy to the left of the man in green", (), "boy", ()),
        ("a pony with a rider in a purple vest", (), "pony", ("with a rider",)),
        ("a lady on a pony in a purple vest", (), "lady", ("in a purple vest",)),
        ("a girl wearing a scarf that is purple", (), "girl", ("wearing a scarf",)),
        ("a girl wearing a scarf who is tall", ("tall",), "girl", ("wearing a scarf",)),
        ("a cup of tea that is hot", ("hot",), "cup", ("of tea",)),
        ("a lamp turned off", ("turned off",), "lamp", ()),
        ("a lamp turned on its side", ("turned",), "lamp", ()),
        ("a nurse who used to be tall", (), "nurse", ()),
        ("a lady taking off her scarf", (), "lady", ("taking off her scarf",)),
        ("a jet taking off", (), "jet", ("taking off",)),
        ("a girl trying to catch a beetle", (), "girl", ("catching a beetle",)),
        ("a cookie shaped like a boot", (), "cookie", ()),
        ("a goat with its tail down", (), "goat", ("with its tail down",)),
        ("a nurse in a vest and scarf", (), "nurse", ("in a vest", "in a scarf")),
        (
            "a nurse in a hat, white vest and gold scarf",
            (),
            "nurse",
            ("in a hat", "in a white vest", "in a gold scarf"),
        ),
        ("a goat vaults over a gate", ("vaulting",), "goat", ()),
        ("two goats tussle in a pen", ("tussling",), "goats", ()),
        ("a nurse in purple dances on a lawn", ("dancing",), "nurse", ("in purple",)),
        ("a goat grazes as a bell is rung", ("grazing",), "goat", ()),
        ("two goats rest and one is eating", ("resting",), "goats", ()),
        ("as the moon rises, a goat sleeps", ("sleeping",), "goat", ()),
        ("in the meadow a goat is grazing", ("grazing",), "goat", ()),
        ("a goat in a meadow with a ball in its mouth", (), "goat", ("with a ball in its mouth",)),
        ("a goat near a barn with a red roof", (), "goat", ()),
        ("a nurse on a bench reading a letter", (), "nurse", ("reading a letter",)),
        ("a pony in a field with the moon shining", (), "pony", ()),
        ("a goat beside a cart and parked wagons", (), "goat", ()),
        ("a goat and a pony sleeping in a barn", ("sleeping",), "goat", ()),
        ("a goat in a tub filled with hay", (), "goat", ()),
        ("a nurse stands with a pony", ("standing",), "nurse", ()),
    ],
)
def test_what_describes_the_head_is_one_attribute_each_and_scenery_is_left_out(caption, before, noun, after):
    found = phrase(caption)
    assert (found.before, found.noun, found.after) == (before, noun, after)


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        ("a dog", "one"),
        ("two dogs", "several"),
        ("a group of nurses", "several"),
        ("a herd of sheep", "several"),
        ("a sheep", "one"),
        ("a nurse and a doctor", "several"),
        ("a lamp, a clock and a vase", "several"),
        ("people", "several"),
        ("a jug of milk and a ladle", "several"),
        ("a jug of milk and two ladles", "several"),
        ("a nurse with a cane and a child", "several"),
        ("a nurse in green and a nurse in white", "several"),
        ("a nurse and dancing children", "several"),
        ("the octopus", "one"),
        ("cactus", "one"),
        ("a pair of scissors", "pair"),
        ("blue jeans", "pair"),
        ("fresh snow", "stuff"),
        ("some grass", "stuff"),
    ],
)
def test_one_thing_several_things_pairs_and_stuff_are_told_apart(caption, number):
    assert phrase(caption).number == number


def test_a_caption_without_end_is_read():
    assert noun_phrase("a fork with a box" + " of cards" * 2000, "fork").noun == "fork"


@pytest.mark.parametrize("noun", ["Lamp", "LAMP"])
def test_a_noun_is_found_however_it_is_written(noun):
    assert noun_phrase("A Red Lamp", noun).text == "red lamp"


def test_what_is_there_and_what_is_not_are_different_attributes():
    assert content_of("with no tail") == content_of("without a tail") != content_of("with a tail")
    assert content_of("turned on") != content_of("turned off")
    assert implies("long tail", "tail")
    assert implies("looking clouds", "looking")
    assert not implies("tail", "long tail")
    assert not implies("red tail", "red")
    assert not implies("without tail", "tail")
    assert implies("without tail", "without red tail")
    assert not implies("without red tail", "without tail")


def test_worn_and_wearing_are_one_attribute():
    assert {content_of(each) for each in ("in a red shirt", "wearing a red shirt", "with the red shirt")} == {
        "red shirt"
    }
    assert phrase("a man in a red shirt").words == phrase("a man wearing a red shirt").words == {"red shirt"}


def test_neither_two_colours_nor_two_clothes_are_said_in_one_phrase():
    said = [NounPhrase("coat", ("red", "blue")), NounPhrase("nurse", (), ("in a vest", "wearing a scarf"))]
    assert not any(map(is_sayable, said))
    assert is_sayable(NounPhrase("nurse", ("tall", "red"), ("in a vest", "with a cane")))


@pytest.mark.parametrize(
    "caption",
    [
        *("", "he", "on the left", "a dog with a tail tail", "a ring that does not have a tail", "a lamp isn't red"),
        *("there is no goat", "no nurses", "a no swimming sign", "neither lamp"),
    ],
)
def test_without_a_head_or_with_a_loop_or_a_denial_there_is_no_phrase(caption):
    assert phrase(caption) is None
    assert noun_phrase(caption, " ") is None


# By language, eight beginnings and five ends of captions.
FOREIGN = {
    "Spanish": (
        "un perro negro|una mujer mayor|dos niños pequeños|un coche azul|una foto de un caballo|la casa blanca|"
        "un hombre con camisa roja|un grupo de personas",
        "|en la calle|junto a un árbol|sobre la mesa|a la izquierda",
    ),
    "French": (
        "un chien noir|une vieille femme|deux petits garçons|une voiture bleue|une photo d'un cheval|la maison blanche|"
        "un homme avec une chemise rouge|un groupe de personnes",
        "|dans la rue|à côté d'un arbre|sur la table|à gauche",
    ),
    "German": (
        "ein schwarzer hund|eine alte frau|zwei kleine jungen|ein blaues auto|ein foto von einem pferd|das weiße haus|"
        "ein mann in einem roten hemd|eine gruppe von menschen",
        "|auf der straße|neben einem baum|auf dem tisch|auf der linken seite",
    ),
    "Italian": (
        "un cane nero|una donna anziana|due bambini piccoli|una macchina blu|una foto di un cavallo|la casa bianca|"
        "un uomo con una camicia rossa|un gruppo di persone",
        "|per strada|accanto a un albero|sul tavolo|a sinistra",
    ),
    "Portuguese": (
        "um cachorro preto|uma mulher idosa|dois meninos pequenos|um carro azul|uma foto de um cavalo|a casa branca|"
        "um homem com uma camisa vermelha|um grupo de pessoas",
        "|na rua|ao lado de uma árvore|sobre a mesa|à esquerda",
    ),
}


@pytest.mark.parametrize("language", FOREIGN)
def test_captions_of_other_languages_are_no_english(language):
    beginnings, ends = (each.split("|") for each in FOREIGN[language])
    captions = [f"{beginning} {end}".strip() for beginning in beginnings for end in ends]
    assert len(captions) == 40
    assert sum(len(english_among([caption])) for caption in captions) <= 2
    # "Cane" is no English caption either where the longer ones are Italian.
    assert len(english_among([*captions, "cane", "teapot"])) <= 2


@pytest.mark.parametrize(
    "caption",
    [
        *("一只灰色的猫", "赤い 傘", "серый кот", "γκρι γάτα στο χαλί", "a γάτα"),
        *(
            "een man in een groen jack",
            "une orange dans une vase",
            "un taxi en la mesa",
            "um taxi do hotel",
            "no me da",
        ),
    ],
)
def test_other_letters_and_words_that_languages_share_make_no_english(caption):
    assert english_among([caption]) == english_among([caption, "teapot"]) - {"teapot"} == set()


@pytest.mark.parametrize(
    "caption",
    [
        "man in orange hat",
        "pizza on table",
        "an orange sofa",
        "a dotted mushroom",
        "red car",
        "two giraffes near a fence",
        "the nurse's left hand",
        "teapot",
        "a kitchen knife",
        "a german shepherd",
        "a fire hydrant",
        "a brass fork",
        "metal trash cans",
    ],
)
def test_short_captions_are_english(caption):
    assert english_among([caption]) == {caption}


# The table `head_nouns.tsv` was checked by hand. `dev` rows were written with the rules. `held` rows were written
# before the rules had seen them; `mended` marks those that failed at first sight and led to a better rule, `miss` what
# the rules are known to get wrong, with the right answer as the expected value.
class Row(NamedTuple):
    part: str
    expression: str
    head: str | None
    note: str


LINES = Path(__file__).with_name("head_nouns.tsv").read_text(encoding="utf-8").splitlines()
TABLE = [
    Row(row["part"], row["expression"], row["head"] or None, row["note"])
    for row in csv.DictReader(LINES, delimiter="\t", quoting=csv.QUOTE_NONE)
]
CASES = [
    pytest.param(row, id=row.expression, marks=[pytest.mark.xfail(strict=True)] if row.note == "miss" else [])
    for row in TABLE
]


@pytest.mark.parametrize("row", CASES)
def test_the_head_is_what_a_person_says_it_is(row):
    assert head_noun(row.expression) == row.head


def test_at_first_sight_the_rules_got_95_percent_of_the_held_rows():
    held = [row for row in TABLE if row.part == "held"]
    wrong = [row for row in held if row.note]
    assert len(held) >= 200
    assert 1 - len(wrong) / len(held) >= 0.95


def test_spacy_where_it_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'pseudoris[spacy]' && python -m spacy download")):
        noun_finder(FilterConfig(architecture="RN50", weights=WeightsConfig(uri="random:0"), nouns="spacy"))


@pytest.mark.parametrize(
    ("text", "noun", "prompt"),
    [
        ("a red circle", "circle", "a photo of a circle"),
        ("two dogs", "dogs", "a photo of a dogs"),
        ("left", None, "a photo of a left"),
        ("the far right", None, "a photo of the far right"),
        ("a blue and white", None, "a photo of a blue and white"),
        ("two in the back", None, "a photo of two in the back"),
        ("his left", None, "a photo of his left"),
    ],
)
def test_the_prompt_has_one_article_and_falls_back_to_the_caption(text, noun, prompt):
    assert noun_prompt(text, noun) == prompt


@pytest.mark.slow
@given(st.text(max_size=60))
def test_any_text_has_a_head_of_its_own_words_or_none(text):
    head = head_noun(text)
    assert head is None or (head.strip() == head and head != "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the small red circle to the left of the blue star", ["small red circle", "blue star"]),
        ("a photo of a red circle with a hat", ["red circle", "hat"]),
        ("the leftmost of the two dotted circles", ["dotted circles"]),
        ("the second star from the left", ["star"]),
        ("the star in the middle", ["star"]),
        ("the cup above the star", ["cup", "star"]),
        ("the star left of the star", ["star"]),
        ("a brown dog near the man", ["brown dog", "man"]),
        ("a pair of shoes on the floor", ["shoes", "floor"]),
        ("person riding a horse", ["person", "horse"]),
        ("man in green", ["man"]),
        ("the left one", []),
        ("the red", []),
    ],
)
def test_phrases_keep_what_is_seen_of_the_thing_and_lose_its_surroundings(text, expected) -> None:
    assert noun_phrases(text) == expected
