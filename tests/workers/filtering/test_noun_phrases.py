"""Every noun phrase of an expression."""

import pytest

from pseudoris.workers.filtering.head_nouns import noun_phrases


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
