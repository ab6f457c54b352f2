import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.recipes.scene_texts import noisy_caption, realise, to_text
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.grammar import Description, Group, NamedObject, parse_reference
from tests.builders.references import openings, placed, related

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
def test_captions_mean_what_they_meant(description, opening, is_definite):
    caption = realise(description, opening=opening, is_definite=is_definite)
    assert parse_reference(caption) == NamedObject(description)


def test_every_noisy_caption_is_of_the_grammar_and_long_enough_to_end():
    rng = np.random.default_rng(0)
    captions = [noisy_caption(Attributes("circle", "red", "dotted", "small", "tail"), rng) for _ in range(1000)]
    # The start token and four words: the shortest prefix after which decoding may end.
    assert all(isinstance(parse_reference(each), NamedObject) and len(each.split()) >= 4 for each in captions)


@given(placed, openings, st.booleans())
def test_the_head_noun_rules_of_the_filter_find_the_category(description, opening, is_definite):
    assert head_noun(realise(description, opening=opening, is_definite=is_definite)) == description.category


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
