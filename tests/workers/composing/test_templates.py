import pytest

from pseudoris.workers.composing import templates
from pseudoris.workers.filtering.head_nouns import head_noun
from pseudoris.workers.noun_phrases import noun_phrase


def phrase(caption):
    return noun_phrase(caption, head_noun(caption))


def test_templates_speak_of_the_head():
    man, star = phrase("a photo of a man in a red shirt"), phrase("a star")
    assert templates.extreme("left", man) == "the leftmost man in a red shirt"
    assert templates.extreme_of("top", 2, man) == "the upper of the two men in red shirts"
    assert templates.extreme_of("right", 3, star) == "the rightmost of the three stars"
    assert templates.extreme_of("right", 9, star) is None
    assert templates.ordinal("left", 2, man) == "the second man in a red shirt from the left"
    assert templates.ordinal("left", 9, man) is None
    assert templates.at_side("bottom", man) == "the man in a red shirt at the bottom"
    assert templates.related("top", man, star) == "the man in a red shirt above the star"
    assert templates.group(2, man) == "the two men in red shirts"
    assert templates.group(12, star) == "all stars"
    assert templates.definite(star) == "the star"


def test_a_place_is_not_said_of_what_the_object_is_with():
    woman = phrase("a woman with a dog in her arms")
    assert templates.at_side("left", woman) is None
    assert templates.related("left", woman, phrase("a cat")) is None
    assert templates.extreme("left", woman) == "the leftmost woman with a dog in her arms"


def test_stuff_is_not_counted_and_pairs_are():
    snow, jeans = phrase("fresh snow"), phrase("blue jeans")
    assert templates.definite(snow) == "the fresh snow"
    assert templates.at_side("left", snow) == "the fresh snow on the left"
    nothing = (templates.extreme("left", snow), templates.extreme_of("left", 2, snow), templates.group(2, snow))
    assert nothing == (None, None, None)
    assert templates.ordinal("left", 2, snow) is None
    assert templates.definite(jeans) == "the blue jeans"
    assert templates.extreme("left", jeans) == "the leftmost blue pair of jeans"
    assert templates.group(2, jeans) == "the two blue pairs of jeans"


@pytest.mark.parametrize(
    ("caption", "several"),
    [
        ("a clerk wearing a hat on his head", "clerks wearing hats on their heads"),
        ("a clerk in a pair of jeans", "clerks in pairs of jeans"),
        ("a clerk in a blue shorts", "clerks in blue shorts"),
        ("a clerk holding a cup in her hand", "clerks holding a cup in their hands"),
        ("a women in a red shirt", "women in red shirts"),
    ],
)
def test_what_several_wear_and_hold_is_theirs(caption, several):
    assert templates.group(2, phrase(caption)) == f"the two {several}"


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        *(("cross", "crosses"), ("fish", "fish"), ("boy", "boys"), ("lady", "ladies"), ("woman", "women")),
        *(("person", "people"), ("bench", "benches"), ("bus", "buses"), ("fire truck", "fire trucks")),
        ("octopus", "octopuses"),
    ],
)
def test_plurals(noun, plural):
    assert templates.group(2, noun_phrase(noun, noun)) == f"the two {plural}"
