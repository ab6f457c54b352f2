from itertools import chain

import pytest

from experiments.second_voice import words as second_voice_words
from experiments.second_voice.words import (
    ADJECTIVES,
    FIRST_VOICE_WORDS,
    NOUNS,
    is_familiar,
    num_tokens,
    plural,
)
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.filtering.clip_tokenizer import num_clip_tokens
from recipes.simulated_expressions import first_voice_expressions

# X11 or CSS, and "cobalt", "emerald", "tangerine" and "scarlet" as colour lists have them.
SEEN_AS = {
    "scarlet": (255, 36, 0),
    "tangerine": (242, 133, 0),
    "golden": (255, 215, 0),
    "emerald": (80, 200, 120),
    "turquoise": (64, 224, 208),
    "cyan": (0, 255, 255),
    "cobalt": (0, 71, 171),
    "violet": (143, 0, 255),
}


# The words that name a side: "over on the left" is left, as "up above" is up.
NAMED = {
    "left": "left|leftmost",
    "right": "right|rightmost",
    "bottom": "below|under|underneath|beneath|down|lower|lowest|lowermost|bottom",
    "top": "above|over|up|upper|uppermost|top|higher|highest",
    "middle": "middle",
}


def side_named(phrase: str) -> str:
    """Return the side that a phrase names."""
    return next(side for side, named in NAMED.items() if set(named.split("|")) & set(phrase.split()))


def test_a_synonym_belongs_to_one_word_and_is_no_word_of_the_world() -> None:
    synonyms = [word for words in chain(NOUNS.values(), ADJECTIVES.values()) for word in words]
    known = {*CATEGORIES, *COLOURS, *PATTERNS, *SIZES, *PARTS}

    assert len(set(synonyms)) == len(synonyms)
    assert not known & set(synonyms)
    assert NOUNS.keys() <= set(CATEGORIES)
    assert ADJECTIVES.keys() <= {*COLOURS, *PATTERNS, *SIZES}


def test_a_synonym_of_a_colour_is_nearest_to_that_colour() -> None:
    said = {word: colour for colour in COLOURS for word in ADJECTIVES.get(colour, ())}
    assert said.keys() == SEEN_AS.keys()
    for word, colour in said.items():
        far = {
            name: sum((a - b) ** 2 for a, b in zip(SEEN_AS[word], rgb, strict=True)) for name, rgb in COLOURS.items()
        }
        assert min(far, key=far.__getitem__) == colour, word


def test_the_first_voice_says_no_word_that_does_not_count_as_its_own() -> None:
    scenes = [make_scene(Split.DEVELOPMENT, position) for position in range(8)]
    said = [
        each.text for scene in scenes for n in range(len(scene.objects)) for each in first_voice_expressions(scene, n)
    ]

    assert all(is_familiar(text) for text in said)
    assert (
        {"the", "a", "with", "of", "on", "at"} <= {word for text in said for word in text.split()} <= FIRST_VOICE_WORDS
    )


@pytest.mark.parametrize(
    "table", ["SPOTS", "SHORT_SPOTS", "ZONES", "ENDS", "FAR", "HIGHER", "PLAIN_RELATIONS", "NEW_RELATIONS"]
)
def test_a_phrase_names_its_side_and_no_other(table: str) -> None:
    for side, phrases in getattr(second_voice_words, table).items():
        assert {side_named(phrase) for phrase in phrases} == {side}


@pytest.mark.parametrize("table", [second_voice_words.PLAIN_CONVERSES, second_voice_words.NEW_CONVERSES])
def test_a_converse_names_the_other_side(table: dict[str, tuple[str, ...]]) -> None:
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    for side, phrases in table.items():
        assert {side_named(phrase) for phrase in phrases} == {opposite[side]}


@pytest.mark.parametrize(
    ("text", "is_known"), [("star small red", True), ("star, red", False), ("that star", False), ("tiny star", False)]
)
def test_a_comma_or_a_word_of_its_own_is_not_familiar(text: str, is_known: bool) -> None:
    assert is_familiar(text) == is_known


def test_tokens_are_counted_as_clip_counts_them() -> None:
    for word in (*FIRST_VOICE_WORDS, *SEEN_AS, *chain.from_iterable((*NOUNS.values(), *ADJECTIVES.values()))):
        assert num_tokens(word) == num_clip_tokens(word) - 2, word
    assert num_tokens("toadstools, uppermost") == num_clip_tokens("toadstools, uppermost") - 2


def test_plurals_of_synonyms_are_regular() -> None:
    assert [plural(word) for word in ("cross", "fish", "disc", "sailing boat")] == [
        "crosses",
        "fish",
        "discs",
        "sailing boats",
    ]
