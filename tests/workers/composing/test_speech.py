"""Shares of the draws tell which phrases fit a mask, which may, and which do not."""

import pytest

from schemas.shard import CaptionSample, ExpressionRecord
from workers.composing.language import NounPhrase
from workers.composing.speech import Doubt, Speech, rivals_of, speech_of

DRAW = CaptionSample("masked", "top_p", None, 0.9, -2.0)
DOUBT = Doubt(min_noun=0.8, max_noun=0.02, min_word=0.35, max_word=0.03)
DOG, RED_DOG = NounPhrase("dog", "dog", frozenset()), NounPhrase("red dog", "dog", frozenset({"red"}))


def read(caption, noun):
    """The phrase as it stands; none of a text without a noun."""
    return None if noun is None else NounPhrase(caption, noun, frozenset(caption.split()) - {noun})


def said(text, count, noun=None, correctness=None):
    return ExpressionRecord(("m",), text, (DRAW,) * count, head_noun=noun, correctness=correctness)


def speech(nouns, words=(), seen=("dog",)):
    return Speech(dict(nouns), dict(words), frozenset(seen), ())


def test_shares_are_of_all_draws_also_of_those_without_a_noun():
    found = speech_of([said("red dog", 6, "dog"), said("cat", 2, "cat"), said("it runs", 2)], read)
    assert found.nouns == {"cat": 0.2, "dog": 0.6}
    assert found.words == {"red": 0.6}
    assert found.noun == "dog"


def test_phrases_come_by_frequency_then_the_shorter_then_the_alphabet():
    rows = [said("small dog", 2, "dog"), said("dog", 5, "dog"), said("red dog", 2, "dog"), said("old dog", 2, "dog")]
    assert [phrase.text for phrase, _ in speech_of(rows, read).phrases] == ["dog", "old dog", "red dog", "small dog"]


def test_a_mask_is_seen_as_the_nouns_that_score_highest_and_as_all_where_nobody_scored():
    scored = [said("dog", 1, "dog", 0.8), said("cat", 8, "cat", 0.6), said("hound", 1, "hound", 0.8)]
    assert speech_of(scored, read).seen == {"dog", "hound"}
    assert speech_of([said("dog", 1, "dog"), said("cat", 1, "cat")], read).seen == {"dog", "cat"}


def test_of_a_mask_without_draws_nothing_is_known():
    found = speech_of([], read)
    assert found.noun is None
    assert not found.surely(DOG, DOUBT)
    assert not found.maybe(DOG, DOUBT)


@pytest.mark.parametrize(
    ("speech_of_mask", "phrase", "surely", "maybe"),
    [
        (speech({"dog": 0.8}), DOG, True, True),
        (speech({"dog": 0.79}), DOG, False, True),
        (speech({"dog": 0.02}), DOG, False, False),
        # Most call it so, but the crop looks like something else.
        (speech({"dog": 0.9}, seen=("cat",)), DOG, False, True),
        (speech({"dog": 0.8, "cat": 0.9}, seen=("dog", "cat")), DOG, False, True),
        (speech({"dog": 0.9}, {"red": 0.35}), RED_DOG, True, True),
        (speech({"dog": 0.9}, {"red": 0.34}), RED_DOG, False, True),
        (speech({"dog": 0.9}, {"red": 0.03}), RED_DOG, False, False),
        (speech({"dog": 0.9}), RED_DOG, False, False),
    ],
)
def test_bounds_of_a_share_say_yes_inclusively_and_no_inclusively(speech_of_mask, phrase, surely, maybe):
    assert (speech_of_mask.surely(phrase, DOUBT), speech_of_mask.maybe(phrase, DOUBT)) == (surely, maybe)


def test_rivals_are_the_other_masks_that_a_phrase_may_be_true_of():
    speeches = [speech({"dog": 0.9}), speech({"dog": 0.1}), speech({"cat": 1.0}), speech({"dog": 0.5})]
    assert rivals_of(DOG, 0, speeches, DOUBT) == [1, 3]
