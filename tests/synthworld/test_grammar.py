import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, Attributes
from pseudoris.synthworld.grammar import OPENINGS, POSITIONS, Description, noisy_caption, parse, realise, words_of
from pseudoris.workers.filtering.head_nouns import head_noun

TRUTH = Attributes("circle", "red", "dotted", "small", "tail")


def maybe(values):
    return st.none() | st.sampled_from(sorted(values))


descriptions = st.builds(
    Description,
    category=st.sampled_from(CATEGORIES),
    colour=maybe(COLOURS),
    pattern=maybe(PATTERNS),
    size=maybe(SIZES),
    part=maybe(PARTS),
    position=maybe(POSITIONS),
)


@given(descriptions, st.sampled_from(["", *OPENINGS]), st.booleans())
def test_what_is_said_is_what_is_read(description, opening, is_definite):
    assert parse(realise(description, opening=opening, is_definite=is_definite)) == description


@given(descriptions, st.sampled_from(["", *OPENINGS]), st.booleans())
def test_the_head_noun_rules_of_the_filter_find_the_category(description, opening, is_definite):
    assert head_noun(realise(description, opening=opening, is_definite=is_definite)) == description.category


def test_adjectives_may_come_in_any_order():
    assert parse("the red small dotted circle") == parse("the small dotted red circle")


def test_the_article_is_right_before_vowels():
    assert realise(Description("arrow"), opening="a photo of") == "a photo of an arrow"
    assert realise(Description("ring", colour="orange")) == "an orange ring"


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a photo of",
        "red",
        "a red",
        "a red blue circle",
        "a small large circle",
        "a circle circle",
        "a photo of a photo of a circle",
        "a circle with",
        "a circle with a",
        "a circle with a circle",
        "a circle with a hat tail",
        "a circle on the moon",
        "a photo green circle",
        "circle a",
        "a rd circle",
    ],
)
def test_what_is_not_of_the_grammar_is_not_read(caption):
    assert parse(caption) is None


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(0)
    return [noisy_caption(TRUTH, rng) for _ in range(4000)]


def test_every_caption_is_of_the_grammar_and_long_enough_to_end(captions):
    # The start token and four words: the shortest prefix after which decoding may end.
    assert all(parse(caption) is not None and len(caption.split()) >= 4 for caption in captions)


def test_almost_half_of_the_captions_name_the_category_alone(captions):
    share = np.mean([len(words_of(parse(caption))) == 1 for caption in captions])
    assert share == pytest.approx(0.45, abs=0.03)


def test_three_percent_of_the_words_are_wrong(captions):
    wrong, said = 0, 0
    for caption in captions:
        description = parse(caption)
        for name in ("category", "colour", "pattern", "size", "part"):
            word = getattr(description, name)
            said += word is not None
            wrong += word not in (None, getattr(TRUTH, name))
    assert 0.015 < wrong / said < 0.035


def test_captions_never_speak_of_position(captions):
    assert all(parse(caption).position is None for caption in captions)


def test_an_object_without_a_part_is_given_none():
    rng = np.random.default_rng(1)
    assert not any("with" in noisy_caption(Attributes("star", "blue", "plain", "large"), rng) for _ in range(300))
