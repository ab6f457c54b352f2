"""What the synthetic world's grammar can say, as strategies of hypothesis."""

from __future__ import annotations

from dataclasses import replace

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
from pseudoris.synthworld.grammar import (
    OPENINGS,
    POSITIONS,
    Description,
    Extreme,
    Group,
    NamedObject,
    Ordinal,
    Relation,
)


def maybe(values) -> st.SearchStrategy:
    return st.none() | st.sampled_from(sorted(values))


nouns = st.builds(
    Description,
    category=st.sampled_from(CATEGORIES),
    colour=maybe(COLOURS),
    pattern=maybe(PATTERNS),
    size=maybe(SIZES),
    part=maybe(PARTS),
)
placed = st.builds(lambda noun, position: replace(noun, position=position), nouns, maybe(POSITIONS))
ends = st.sampled_from([word for words in EXTREMES.values() for word in words])
openings = st.sampled_from(["", *OPENINGS])
_relations = st.builds(Relation, st.sampled_from(sorted(RELATIONS)), nouns)
_group_words = st.sampled_from(["", "all", "both", *NUMBERS])
# All but a noun with a position, `NamedObject` of `placed`.
related = st.one_of(
    st.builds(NamedObject, nouns, _relations),
    st.builds(Extreme, nouns, ends, maybe(NUMBERS)),
    st.builds(Ordinal, nouns, st.sampled_from(ORDINALS), st.sampled_from(sorted(POSITIONS))),
    # Without a word for how many, "fish" is one or several.
    st.one_of(st.builds(Group, placed, _group_words), st.builds(Group, nouns, _group_words, _relations)).filter(
        lambda group: bool(group.word) or group.noun.category != "fish"
    ),
)
