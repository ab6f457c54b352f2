import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, Attributes
from pseudoris.synthworld.grammar import OPENINGS, POSITIONS, Description, parse
from pseudoris.workers.filtering.head_nouns import head_noun
from recipes.scene_texts import noisy_caption, realise

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
