"""Candidates count by how often they were drawn or how probable they are."""

import math

import pytest

from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.workers.composing.evidence import evidence_of, substitutes
from pseudoris.workers.composing.language import NounPhrase

DRAW = CaptionSample("masked", "top_p", None, 0.9, -2.0)


def read(caption, noun):
    """The phrase as it stands; none of a text that runs or has no noun."""
    return None if noun is None or "runs" in caption else NounPhrase(caption, noun, frozenset(caption.split()) - {noun})


def said(text, count, noun=None, *, score=None, correctness=None):
    return ExpressionRecord(("m",), text, (DRAW,) * count, head_noun=noun, caption_score=score, correctness=correctness)


def phrase(text):
    *words, noun = text.split()
    return NounPhrase(text, noun, frozenset(words))


def test_nouns_are_shares_of_what_names_one_and_words_of_what_is_a_noun_phrase():
    found = evidence_of(
        [
            said("red dog", 6, "dog", correctness=0.8),
            said("cat", 2, "cat"),
            said("dog runs", 2, "dog", correctness=0.8),
            said("it", 9),
        ],
        "draws",
        read,
    )
    assert found.nouns == {"cat": 0.2, "dog": 0.8}
    assert found.words == {"red": 0.75}
    assert found.correctness == {"dog": 0.8, "cat": 0.0}
    assert [each.text for each in found.phrases] == ["red dog", "cat"]


def test_probabilities_count_in_place_of_draws():
    rows = [said("dog", 1, "dog", score=math.log(0.3)), said("cat", 9, "cat", score=math.log(0.1))]
    assert evidence_of(rows, "probability", read).nouns == pytest.approx({"cat": 0.25, "dog": 0.75})
    assert evidence_of(rows, "draws", read).nouns == pytest.approx({"cat": 0.9, "dog": 0.1})
    # A score far below what a float's exponential holds is a share of the likeliest all the same.
    low = [said("dog", 1, "dog", score=-900.0), said("cat", 1, "cat", score=-900.0)]
    assert evidence_of(low, "probability", read).nouns == {"cat": 0.5, "dog": 0.5}


def test_words_said_in_one_place_and_never_together_replace_each_other():
    found = substitutes(map(phrase, ["red star", "blue star", "dotted star", "red dotted star", "small heart", "star"]))
    # Dotted is said with red, so it is no other colour; nobody said blue and dotted of one thing.
    assert found == {"red": {"blue"}, "blue": {"red", "dotted"}, "dotted": {"blue"}}
    more = substitutes(map(phrase, ["red star", "blue star", "dotted star", "red dotted star", "dotted blue star"]))
    assert more == {"red": {"blue"}, "blue": {"red"}}


def test_words_of_different_nouns_do_not_replace_each_other():
    assert substitutes(map(phrase, ["red star", "blue heart"])) == {}
    # But in the same place of longer phrases.
    assert substitutes(map(phrase, ["small red star", "small blue star"])) == {"red": {"blue"}, "blue": {"red"}}
