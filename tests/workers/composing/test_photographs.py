"""What composes for photographs: kinds of names, words in slots, colours of pixels, places of things on the ground."""

import random
from dataclasses import replace
from typing import get_args

import pytest

from evidence.recipes.kinds import TABLE
from pseudoris.primitives.english import is_plural
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.kinds import truth
from pseudoris.primitives.noun_phrases import NounPhrase, noun_phrase
from pseudoris.primitives.pixel_colours import NAMES
from pseudoris.schemas.fitted import NounRelations
from pseudoris.schemas.shard import CaptionSample
from pseudoris.schemas.stage_settings import ComposedKind
from pseudoris.workers.composing.kind_posterior import full_name, numbers_said
from pseudoris.workers.composing.posterior import learnt_substitutes
from tests.workers.composing.builders import composed, make_image, texts

WORDS = {"kinds": ["attribute"], "min_first": 0.8, "min_further": 0.8, "max_per_form": 9}
KINDS = {**WORDS, "posterior": {"has_kinds": True, "has_slots": True, "noun_share": 2.0}}
# As the weights of the presets for photographs.
FITTED = {"word_bias": 2.7, "word_against": 1.6, "word_share": 1.0, "least_opposed": 0.08}
PLACES = {**KINDS, "kinds": ["position"]}
SEDAN = {"a silver sedan": 4, "a grey car": 4, "a vehicle": 3, "an automobile": 3}
DOG = {"a brown dog": 14}


def test_names_of_one_kind_count_together_and_the_basic_one_is_said():
    image = make_image(((20, 50), SEDAN), ((80, 50), DOG))
    assert not texts(image, 0, **WORDS)
    found = texts(image, 0, **KINDS)
    assert "the car" in found
    assert not any(word in text for text in found for word in ("sedan", "vehicle", "automobile"))


@pytest.mark.parametrize("rival", [{"a vehicle": 14}, {"cars": 14}])
def test_a_wider_name_and_several_things_are_rivals(rival):
    assert "the car" not in texts(make_image(((20, 50), SEDAN), ((80, 50), rival)), 0, **KINDS)


def test_a_thing_whose_names_scatter_may_be_any_other_and_names_that_fit_anything_say_little():
    def right(rival):
        return confidence(make_image(((20, 50), SEDAN), ((80, 50), rival)), "the car")

    assert right({"a van": 4, "a truck": 3, "a dog": 3, "a box": 4}) < right({"a dog": 14}) - 0.02
    assert right({"a dog": 7, "an object": 7}) > right({"a dog": 7, "a vehicle": 7}) + 0.2


def test_names_that_a_run_taught_count_together_beside_the_table():
    image = make_image(((20, 50), {"a zorb": 7, "a blick": 7}), ((80, 50), DOG))
    taught = {**KINDS["posterior"], "names": NounRelations(same=(("zorb", "blick"),))}
    assert not texts(image, 0, **KINDS)
    assert "the zorb" in texts(image, 0, **{**KINDS, "posterior": taught})


@pytest.mark.parametrize(
    ("one", "other"),
    [("tie", "necktie"), ("remote", "remote control"), ("motorcycle", "bike"), ("hat", "cap"), ("boat", "ship")],
)
def test_a_thing_has_the_name_that_most_captions_say_and_no_synonym_tells_it_apart(one, other):
    said = {f"a red {one}": 6, f"a red {other}": 8}
    found = texts(make_image(((20, 50), said), ((80, 50), DOG)), 0, **KINDS)
    assert f"the red {other}" in found
    both = make_image(((20, 50), {f"a red {one}": 14}), ((80, 50), {f"a red {other}": 14}))
    assert not texts(both, **KINDS)
    # A "bike" may be a motorbike, so it is no "bicycle".
    assert f"the {other}" in texts(make_image(((20, 50), {f"a red {other}": 14}), ((80, 50), DOG)), 0, **KINDS)


def test_short_captions_of_names_that_the_table_has_are_read():
    image = make_image(((20, 50), {"a brass fork": 14}), ((80, 50), {"a small fork": 14}))
    assert texts(image, 0, **KINDS) == {"the brass fork"}
    assert "the fork" not in texts(image, 1, **KINDS)


def test_a_narrower_name_tells_no_two_things_apart():
    image = make_image(((20, 50), {"a poodle": 14}), ((80, 50), {"a terrier": 14}))
    assert not texts(image, **KINDS)


def test_without_a_basic_name_that_is_supported_a_thing_has_the_narrowest_wider_one():
    image = make_image(((20, 50), {"a bus": 7, "a car": 7}), ((80, 50), DOG))
    assert "the vehicle" in texts(image, 0, **KINDS)
    # A name that fits anything is never said.
    assert not texts(make_image(((20, 50), {"an object": 14}), ((80, 50), DOG)), 0, **KINDS)


def test_words_of_other_slots_leave_a_word_certain_and_those_of_its_own_do_not():
    other = ((80, 50), {"a white car": 14})
    parked = make_image(((20, 50), {"a black car": 7, "a parked car": 7}), other)
    green = make_image(((20, 50), {"a black car": 7, "a green car": 7}), other)
    assert "the black car" in texts(parked, 0, **KINDS)
    assert "the black car" not in texts(green, 0, **KINDS)
    # Without slots, words that no caption joins replace each other.
    assert "the black car" not in texts(parked, 0, **WORDS)


def test_a_word_that_few_captions_say_is_not_certain_though_nothing_opposes_it():
    def right(number):
        image = make_image(((20, 50), {"a man": 14 - number, "a smiling man": number}), ((80, 50), {"a man": 14}))
        settings = {**KINDS, "min_first": 0.0, "min_further": 0.0, "max_per_mask": 9}
        settings["posterior"] = {**KINDS["posterior"], **FITTED}
        said = {each.text: each.confidence for each in composed(image, **settings)}
        return said["the smiling man"]

    once, twice, often = map(right, (1, 2, 7))
    assert once < 0.6 < twice < 0.9 < often


def test_words_that_captions_could_have_joined_and_never_do_replace_each_other():
    read = [NounPhrase("man", each) for each in ((), ("tall",), ("happy",), ("tall", "old"), ("happy", "old"))]
    often = [*read, *(NounPhrase("man", (first, f"word{at}")) for at in range(6) for first in ("tall", "happy"))]
    assert learnt_substitutes(often)["tall"] == {"happy"}
    # So few captions would seldom join two words that are said independently.
    assert "happy" not in learnt_substitutes(read).get("tall", ())
    joined = [*often, NounPhrase("man", ("tall", "happy"))]
    assert "happy" not in learnt_substitutes(joined).get("tall", ())


def test_only_what_lives_holds_or_wears_something():
    image = make_image(((20, 50), {"a glass holding a wine glass": 14}), ((80, 50), {"a man holding a phone": 14}))
    found = texts(image, **KINDS, has_needed_words=False)
    assert "the man holding a phone" in found
    assert not any("glass holding" in text for text in found)


def test_someone_in_red_clothes_is_a_rival_of_someone_in_red():
    rival = ((80, 50), {"a woman in a red dress": 14})
    assert not texts(make_image(((20, 50), {"a woman in red": 14}), rival), 0, **KINDS)


def test_a_word_that_every_rival_has_is_not_said():
    standing = {"a standing man": 14}
    image = make_image(((20, 50), standing), ((50, 50), standing), ((80, 50), standing))
    assert any("standing" in text for text in texts(image, 0, **PLACES))
    assert not any("standing" in text for text in texts(image, 0, **PLACES, has_needed_words=True))


def test_up_to_the_middle_another_thing_is_a_rival_of_what_is_on_a_side():
    image = make_image(((15, 50), DOG), ((45, 52), DOG))
    assert "the dog on the left" in texts(image, 0, **PLACES)
    assert "the dog on the left" not in texts(image, 0, **PLACES, places="photographs")


def test_of_what_stands_on_the_ground_the_lower_and_larger_is_in_front():
    image = make_image(((30, 40), DOG, 10), ((60, 70), DOG, 30))
    drawn, seen = (texts(image, 1, **PLACES, places=places) for places in ("drawings", "photographs"))
    assert "the dog at the bottom" in drawn
    assert not any("bottom" in text for text in seen)
    assert "the dog in front" in seen
    assert "the dog in the back" in texts(image, 0, **PLACES, places="photographs")
    # What hangs or flies is not nearer because it is lower.
    birds = make_image(((30, 40), {"a bird": 14}, 10), ((60, 70), {"a bird": 14}, 30))
    assert "the bird at the bottom" in texts(birds, 1, **PLACES, places="photographs")


def test_of_several_things_a_mask_has_no_text_and_counts_as_none():
    two = make_image(((20, 50), DOG), ((80, 50), {"three brown dogs": 14}))
    found = texts(two, **{**PLACES, "kinds": ["attribute", "position", "group"]})
    assert not any("two" in text or "dogs" in text for text in found)
    # They are rivals all the same, also of names that no table has.
    assert "the dog" not in found
    assert not texts(make_image(((20, 50), {"a gizmo": 14}), ((80, 50), {"two gizmos": 14})), **KINDS)
    assert not texts(make_image(((20, 50), {"a glass": 14}), ((80, 50), {"two glasses": 14})), **KINDS)


@pytest.mark.parametrize(
    ("several", "one"), [("two sheep", "a sheep"), ("a herd of sheep", "a sheep"), ("a man and a woman", "a man")]
)
def test_what_captions_show_to_be_several_is_none(several, one):
    image = make_image(((20, 50), {several: 9, one: 5}), ((80, 50), DOG))
    assert texts(image, 0, **KINDS) == set()
    name = f"the {one.removeprefix('a ')}"
    assert name in texts(make_image(((20, 50), {several: 5, one: 9}), ((80, 50), DOG)), 0, **KINDS)
    # A caption that is not read tells of nothing.
    assert name in texts(make_image(((20, 50), {f"{one} isn't here": 14}), ((80, 50), DOG)), 0, **KINDS)
    # It may be a rival.
    assert name not in texts(make_image(((20, 50), {several: 14}), ((80, 50), {one: 14})), 1, **KINDS)


def test_a_wider_name_takes_nothing_over_from_a_compound():
    officers = {"a police officer": 6, "a woman": 3, "a person": 5}
    found = texts(make_image(((20, 50), officers), ((80, 50), DOG)), 0, **{**KINDS, "min_first": 0.3})
    assert found
    assert not any("police person" in text or "police woman" in text for text in found)


def test_names_of_several_words_are_read_whole():
    listed = [line.split("\t")[0] for line in TABLE.read_text(encoding="utf-8").splitlines()[2:]]
    read = {}
    for name in (each for each in listed if " " in each):
        caption = f"{'the' if is_plural(name) else 'a'} {name} on a street"
        read[name] = noun_phrase(caption, full_name(caption, head_noun(caption)))
    assert len(read) > 400
    # "Brown" of "brown bear" is an attribute.
    assert {name for name, found in read.items() if found is None or found.text != name} == set()
    assert {name for name, found in read.items() if truth(found.noun, name) < 1.0} == set()


@pytest.mark.parametrize(
    ("caption", "head"), [("", None), ("on the", None), ("red", None), ("a dog", "cat"), ("a", "a b")]
)
def test_a_caption_without_such_a_name_has_the_head_that_it_had(caption, head):
    assert full_name(caption, head) == head


@pytest.mark.parametrize(
    "said", ["dvd player", "trash can", "rocking horse", "station wagon", "german shepherd", "soda can"]
)
def test_a_compound_is_no_kind_of_its_last_or_first_word(said):
    image = make_image(((20, 50), {f"a black {said}": 14}), ((80, 50), {"a cup": 14}))
    names = {"station wagon": "car", "german shepherd": "dog", "soda can": "black can"}
    assert f"the {names.get(said, said)}" in texts(image, 0, **KINDS)


@pytest.mark.parametrize(
    "said", ["wine glass:glass", "food truck:truck", "coffee cup:mug", "kitchen clock:clock", "golden retriever:dog"]
)
def test_what_makes_a_narrower_name_tells_no_two_things_apart(said):
    narrow, name = said.split(":")
    assert not texts(make_image(((20, 50), {f"a {narrow}": 14}), ((80, 50), {f"a {name}": 14})), 0, **KINDS)
    # What a thing is made of, or its colour, is no name.
    wooden = make_image(((20, 50), {f"a wooden {name}": 14}), ((80, 50), {f"a {name}": 14}))
    assert f"the wooden {name.replace('mug', 'cup')}" in texts(wooden, 0, **KINDS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a man with a beard", "a bearded man"),
        ("a man wearing glasses", "a man with eyeglasses"),
        ("a shirtless man", "a man without a shirt"),
        ("an old leather bag", "a vintage leather bag"),
        ("a man in a grey shirt", "a man wearing a gray shirt"),
    ],
)
def test_words_that_say_the_same_tell_no_two_things_apart_and_make_one_text(one, other):
    assert not texts(make_image(((20, 50), {one: 14}), ((80, 50), {other: 14})), **KINDS)
    alone = texts(make_image(((20, 50), {one: 7, other: 7}), ((80, 50), DOG)), 0, **KINDS)
    assert len(alone) == len(texts(make_image(((20, 50), {one: 14}), ((80, 50), DOG)), 0, **KINDS)) > 1


@pytest.mark.parametrize(
    ("said", "name"),
    [
        *((f"a pair of black {each}", each) for each in ("skis", "sunglasses", "eyeglasses", "headphones")),
        *((f"black {each}", each) for each in ("glasses", "stairs", "goggles")),
        *((f"a {each}", each) for each in ("rhinoceros", "thermos")),
    ],
)
def test_a_pair_and_what_only_looks_like_a_plural_have_texts(said, name):
    image = make_image(((20, 50), {said: 14}), ((80, 50), DOG))
    assert f"the {name}" in texts(image, 0, **KINDS)


@pytest.mark.parametrize(
    ("said", "group"),
    [
        ("a man with a hat", "the two men with hats"),
        ("a man holding a red phone in his hand", "the two men holding red phones in their hands"),
        ("a dog with a tail", "the two dogs with a tail"),
        ("a green ottoman", "the two green ottomans"),
        ("a brown talisman", "the two brown talismans"),
    ],
)
def test_of_several_things_each_has_its_own(said, group):
    image = make_image(((20, 50), {said: 14}), ((80, 50), {said: 14}))
    assert group in texts(image, **{**KINDS, "kinds": ["group"], "has_needed_words": False})


def test_a_garment_opposes_the_lack_of_it():
    clothed = ((80, 50), {"a man in a red shirt": 14})
    image = make_image(((20, 50), {"a man without a shirt": 14}), clothed)
    assert "the man without a shirt" in texts(image, 0, **KINDS)


def test_of_what_may_be_missing_neither_a_number_nor_a_rank_is_said():
    row = [((x, 50), DOG) for x in (15, 40, 65, 90)]
    groups = {**KINDS, "kinds": ["position", "group"], "min_first": 0.3, "min_further": 0.3, "max_per_mask": 99}
    counted = {"the second brown dog from the left", "the four brown dogs"}
    assert counted <= texts(make_image(*row), **groups)
    told = replace(make_image(*row), whole_picture=("five large brown dogs",) * 6 + ("four dogs",) * 6)
    assert counted.isdisjoint(texts(told, **{**groups, "posterior": {**KINDS["posterior"], "hidden": 0.5}}))
    # Without kinds a wide name would not be told from others.
    assert counted <= texts(told, **groups)


@pytest.mark.parametrize(
    ("said", "is_taken"),
    [("a group of dogs", True), ("three large brown dogs", True), ("a dog in a field", False), ("two cats", False)],
)
def test_several_that_the_whole_picture_names_and_masks_do_not_show_make_the_alone_less_sure(said, is_taken):
    sure = {**KINDS, "min_first": 0.6, "min_further": 0.6, "posterior": {**KINDS["posterior"], "hidden": 0.5}}
    image = make_image(((20, 50), DOG), ((80, 50), SEDAN))
    assert "the dog" in texts(image, 0, **sure)
    told = replace(image, whole_picture=(said,) * 12)
    assert ("the dog" in texts(told, 0, **sure)) != is_taken


def test_what_the_whole_picture_names_is_not_said_to_be_absent():
    bank = {"uri": "bank", "sha256": "0" * 64, "values": {"texts": ["a kite", "a boat"]}}
    absent = {**KINDS, "kinds": ["none"], "bank": bank, "min_group_or_none": 0.5}
    image = make_image(((20, 50), DOG))
    assert texts(image, **absent) == {"the kite", "the boat"}
    assert texts(replace(image, whole_picture=("a man flies kites",)), **absent) == {"the boat"}


@pytest.mark.parametrize("seed", range(8))
def test_captions_of_the_whole_picture_make_no_text_kept_that_was_not(seed):
    image, told = (drawn(seed, is_told=is_told) for is_told in (False, True))
    few = {**KINDS, "kinds": list(get_args(ComposedKind)), "min_first": 0.4, "min_further": 0.5, "max_per_mask": 2}
    few |= {"max_per_form": 1, "posterior": {**KINDS["posterior"], "hidden": 0.5}}
    before, after = (
        {(each.target_mask_ids, each.text): each for each in composed(one, **few)} for one in (image, told)
    )
    assert after.keys() < before.keys()
    assert all(each.confidence <= before[key].confidence for key, each in after.items())


def drawn(seed, *, is_told):
    """Return an image of a row of things of a few kinds, perhaps with captions of the whole picture."""
    draw = random.Random(seed)
    nouns = [draw.choice(("dog", "man", "car", "person", "vehicle")) for _ in range(7)]
    said = [
        {f"a {draw.choice(('red', 'white', 'black'))} {noun}": draw.randint(1, 9) for _ in range(3)} for noun in nouns
    ]
    image = make_image(*(((8 + 14 * at, draw.randint(20, 80)), each) for at, each in enumerate(said)))
    whole = ("a group of people and five dogs", "several red cars", "nine dogs, three men and cars")
    return replace(image, whole_picture=whole if is_told else ())


@pytest.mark.parametrize("has_too_small", [False, True])
def test_masks_that_are_too_small_make_a_kind_of_the_picture_less_sure_where_that_is_asked(has_too_small):
    settings = {**KINDS, "posterior": {**KINDS["posterior"], "hidden": 1.0}, "has_too_small": has_too_small}
    settings |= {"min_first": 0.1, "min_further": 0.1}
    image = make_image(((20, 50), DOG), ((80, 50), SEDAN))
    sure, unsure = (
        {each.text: each.confidence for each in composed(replace(image, num_too_small=number), **settings)}
        for number in (None, 6)
    )
    assert sure.keys() == unsure.keys() != set()
    assert all((unsure[text] < sure[text]) == has_too_small for text in sure)


def test_a_number_counts_the_next_words_that_say_several():
    assert numbers_said("three large brown dogs and a group of men near a car") == {"dog": 3, "man": 2}
    assert numbers_said("three of us saw very old and dusty brown horses") == {"horse": 2}


@pytest.mark.parametrize(
    ("said", "one"),
    [
        *(("a man next to another man", "man"), ("a man beside the other men", "man")),
        *(("a cup beside another white cup", "cup"), ("a herd of sheep", "sheep"), ("three white sheep", "sheep")),
        *(("three glasses of wine", "glass"), ("several deer", "deer")),
    ],
)
def test_another_thing_and_plurals_like_their_singular_are_several(said, one):
    found = numbers_said(said)
    assert max(number for kind, number in found.items() if truth(one, kind)) == (3 if "three" in said else 2)
    settings = {**KINDS, "min_first": 0.6, "min_further": 0.6, "posterior": {**KINDS["posterior"], "hidden": 0.5}}
    image = make_image(((20, 50), {f"a {one}": 14}), ((80, 50), SEDAN))
    assert f"the {one}" in texts(image, 0, **settings)
    assert f"the {one}" not in texts(replace(image, whole_picture=(said,) * 12), 0, **settings)


@pytest.mark.parametrize(
    "said", ["a man in another room with a dog", "a sheep", "a pair of glasses", "a piece of fish"]
)
def test_one_thing_is_not_several(said):
    assert not {"man", "dog", "sheep", "eyeglasses", "glasses", "fish"} & numbers_said(said).keys()


def coloured(image, *shares):
    """Return an image whose masks' pixels may have colours in these shares; None where they were not measured."""
    measured = [() if each is None else tuple(each.get(name, 0.0) for name in NAMES) for each in shares]
    masks = (replace(mask, colours=each) for mask, each in zip(image.masks, measured, strict=True))
    return replace(image, masks=tuple(masks))


COLOURS = {**KINDS, "has_colours": True}
TWO_CARS = make_image(((20, 50), {"a red car": 14}), ((80, 50), {"a car": 14}))


def confidence(image, text):
    """Return the confidence of a text of the first mask."""
    said = composed(image, **{**COLOURS, "min_first": 0.0, "min_further": 0.0, "max_per_mask": 99, "max_per_form": 99})
    (found,) = (each.confidence for each in said if each.text == text and each.target_mask_ids[0].endswith("0"))
    return found


def test_a_colour_that_the_pixels_deny_is_not_said():
    assert "the red car" in texts(coloured(TWO_CARS, {"red": 0.4}, {"blue": 1.0}), 0, **COLOURS)
    assert "the red car" in texts(coloured(TWO_CARS, None, None), 0, **COLOURS)
    denied = coloured(TWO_CARS, {"blue": 0.9}, {"blue": 1.0})
    assert "the red car" not in texts(denied, 0, **COLOURS)
    assert "the red car" in texts(denied, 0, **KINDS)


def test_a_colour_of_clothes_may_be_a_few_pixels():
    image = make_image(((20, 50), {"a man in a red hat": 14}), ((80, 50), DOG))
    assert any("red hat" in text for text in texts(coloured(image, {"blue": 1.0}, None), 0, **COLOURS))


def test_a_rival_without_the_colour_is_none_and_one_whose_pixels_allow_a_drawn_colour_is():
    unknown, lacking = (
        confidence(coloured(TWO_CARS, {"red": 1.0}, each), "the red car") for each in (None, {"blue": 1.0})
    )
    assert lacking > unknown
    torn = make_image(((20, 50), {"a red car": 14}), ((80, 50), {"a brown car": 10, "a red car": 4}))
    doubtful, allowed = (
        confidence(coloured(torn, {"red": 1.0}, {"brown": 1.0, **each}), "the red car") for each in ({}, {"red": 0.6})
    )
    assert allowed < doubtful - 0.3


def test_what_draws_of_the_mask_alone_agree_on_is_not_what_it_lies_on():
    image = make_image(((20, 50), {"a tie": 7, "a man": 7}), ((80, 50), DOG))
    around = CaptionSample("context_1.2", "top_p", None, 0.9, -2.0, "all", 1)
    man = (replace(each, samples=(around,) * 7) if each.text == "a man" else each for each in image.expressions)
    assert "the tie" not in texts(image, 0, **KINDS)
    assert "the tie" in texts(replace(image, expressions=tuple(man)), 0, **KINDS)


def test_parts_of_a_body_and_names_that_cannot_be_counted_name_nothing():
    assert not texts(make_image(((20, 50), {"a hand": 14}), ((80, 50), DOG)), 0, **KINDS)
    assert not texts(make_image(((20, 50), {"a chair": 5, "a table": 5, "a bed": 4}), ((80, 50), DOG)), 0, **KINDS)


RELATIONS = {**KINDS, "kinds": ["relation"], "places": "photographs"}


def test_above_and_below_are_said_of_what_hangs():
    one, other = ((50, 20), {"a picture": 14}), ((50, 80), {"a mirror": 14})
    assert "the picture above the mirror" in texts(make_image(one, other), 0, **RELATIONS)
    assert not texts(make_image(one, ((50, 80), {"a cup": 14})), 0, **RELATIONS)


def test_no_side_is_told_of_what_lies_on_a_thing_or_is_much_smaller():
    assert "the cup to the left of the brown dog" in texts(
        make_image(((20, 50), {"a cup": 14}), ((60, 50), DOG)), 0, **RELATIONS
    )
    beside_small = make_image(((30, 50), {"a table": 14}, 40), ((80, 50), {"a cup": 14}, 6))
    assert not texts(beside_small, 0, **RELATIONS)
    assert texts(beside_small, 1, **RELATIONS)
    on_it = make_image(((50, 50), {"a man": 14}, 40), ((62, 50), {"a tie": 14}, 14))
    assert not texts(on_it, **RELATIONS)


def test_a_cup_of_coffee_keeps_its_noun_in_what_is_absent():
    image = make_image(((20, 50), {"a white cup of coffee": 14}), ((80, 50), {"a brown cake": 14}))
    found = texts(image, **{**KINDS, "kinds": ["none"]}, places="photographs")
    assert not any("cake of" in text for text in found)
