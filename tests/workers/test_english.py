import pytest

from pseudoris.workers import english
from pseudoris.workers.filtering.head_nouns import head_noun


def phrase(caption):
    return english.noun_phrase(caption, head_noun(caption))


@pytest.mark.parametrize(
    ("caption", "text", "words"),
    [
        (
            "a photo of a small dotted circle with a tail",
            "small dotted circle with a tail",
            {"small", "dotted", "tail"},
        ),
        ("a man in a red shirt", "man in a red shirt", {"red", "shirt"}),
        ("there is a brown dog", "brown dog", {"brown"}),
        ("this is a picture of the fire truck", "fire truck", {"fire"}),
        ("an image of a hot dog on a plate", "hot dog on a plate", {"plate"}),
        ("the bus", "bus", set()),
    ],
)
def test_the_noun_phrase_of_a_caption_has_neither_opening_nor_article(caption, text, words):
    found = phrase(caption)
    assert (found.text, found.words) == (text, words)


@pytest.mark.parametrize(
    "caption",
    [
        "two dogs",
        "a group of people",
        "the dog is running",
        "a man and a dog",
        "the man on the left",
        "he",
        "people",
        "shoes",
        "a dog, brown",
        "a man in a red shirt and blue pants with a bag on his back",
        "",
    ],
)
def test_clauses_lists_plurals_and_places_are_no_phrase_that_can_be_placed(caption):
    assert phrase(caption) is None


def test_templates_speak_of_the_head():
    man, star = phrase("a photo of a man in a red shirt"), phrase("a star")
    assert english.extreme("left", man) == "the leftmost man in a red shirt"
    assert english.extreme_of("top", 2, man) == "the upper of the two men in a red shirt"
    assert english.extreme_of("right", 3, star) == "the rightmost of the three stars"
    assert english.extreme_of("right", 9, star) is None
    assert english.ordinal("left", 2, man) == "the second man in a red shirt from the left"
    assert english.ordinal("left", 9, man) is None
    assert english.at_side("bottom", man) == "the man in a red shirt at the bottom"
    assert english.related("top", man, star) == "the man in a red shirt above the star"
    assert english.group(2, man) == "the two men in a red shirt"
    assert english.group(12, star) == "all stars"
    assert english.definite(star) == "the star"


def test_a_place_is_not_said_of_what_the_object_is_with():
    woman = phrase("a woman with a dog on a leash")
    assert english.at_side("left", woman) is None
    assert english.related("left", woman, phrase("a cat")) is None
    assert english.extreme("left", woman) == "the leftmost woman with a dog on a leash"


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        *(("cross", "crosses"), ("fish", "fish"), ("boy", "boys"), ("lady", "ladies"), ("woman", "women")),
        *(("person", "people"), ("bench", "benches"), ("bus", "buses"), ("fire truck", "fire trucks")),
    ],
)
def test_plurals(noun, plural):
    assert english.group(2, english.noun_phrase(noun, noun)) == f"the two {plural}"
