import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.synthworld.attributes import (
    CATEGORIES,
    COLOURS,
    EXTREMES,
    NUMBERS,
    ORDINALS,
    PARTS,
    PATTERNS,
    RELATIONS,
    SIZES,
)
from pseudoris.synthworld.grammar import OPENINGS, POSITIONS, Description, parse
from pseudoris.synthworld.references import Extreme, Group, NamedObject, Ordinal, Relation, parse_reference
from pseudoris.synthworld.scenes import Split, generator, make_scene
from recipes.scene_texts import noisy_caption, realise, to_text


def maybe(values):
    return st.none() | st.sampled_from(sorted(values))


nouns = st.builds(
    Description,
    category=st.sampled_from(CATEGORIES),
    colour=maybe(COLOURS),
    pattern=maybe(PATTERNS),
    size=maybe(SIZES),
    part=maybe(PARTS),
)
placed = st.tuples(nouns, maybe(POSITIONS)).map(lambda pair: Description(**{**pair[0].__dict__, "position": pair[1]}))
relations = st.builds(Relation, st.sampled_from(sorted(RELATIONS)), nouns)
ends = st.sampled_from([word for words in EXTREMES.values() for word in words])
group_words = st.sampled_from(["", "all", "both", *NUMBERS])
references = st.one_of(
    st.builds(NamedObject, placed),
    st.builds(NamedObject, nouns, relations),
    st.builds(Extreme, nouns, ends, maybe(NUMBERS)),
    st.builds(Ordinal, nouns, st.sampled_from(ORDINALS), st.sampled_from(sorted(POSITIONS))),
    st.builds(Group, placed, group_words),
    st.builds(Group, nouns, group_words, relations),
)


@given(references, st.sampled_from(["", "the"]), st.sampled_from(["", *OPENINGS]))
def test_what_is_said_is_what_is_read(reference, article, opening):
    text = f"{opening} {to_text(reference, article=article)}".strip()
    # "the two fish", "all crosses with a tail": only "fish" alone is the same word for one and for several.
    if isinstance(reference, Group) and reference.word == "" and reference.noun.category == "fish":
        assert parse_reference(text) == NamedObject(reference.noun, reference.relation)
    else:
        assert parse_reference(text) == reference


@given(placed, st.sampled_from(["", *OPENINGS]), st.booleans())
def test_captions_mean_what_they_meant(description, opening, is_definite):
    caption = realise(description, opening=opening, is_definite=is_definite)
    assert parse_reference(caption) == NamedObject(parse(caption)) == NamedObject(description)


def test_every_noisy_caption_is_read_as_the_description_it_is():
    for position in range(30):
        for item in make_scene(Split.TRAIN, position).objects:
            caption = noisy_caption(item.attributes, generator(0, position, stream=3))
            assert parse_reference(caption) == NamedObject(parse(caption))


@pytest.mark.parametrize(
    "text",
    [
        "the left",
        "the left of the circle",
        "the left of the two circle",
        "the left of two circles",
        "the leftmost circle on the left",
        "the second circle",
        "the second circle from the left of the star",
        "the circle above",
        "the circle above the",
        "the circle above the stars",
        "the circle above the star on the left",
        "the circle on the left above the star",
        "two circle",
        "all",
        "both the circle",
        "the circles circles",
        "the circle left the star",
    ],
)
def test_what_is_not_of_the_grammar_is_not_read(text):
    assert parse_reference(text) is None
