from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.sentences import SentenceJudge, words_of

OBJECTS = [["the black cat", "left cat"], ["a black dog on the left"], [], ["Man's T-shirt, red!"]]


def test_words_are_lower_case_and_punctuation_parts_them():
    assert words_of("The man's T-shirt, RED & white!") == ["the", "man", "s", "t", "shirt", "red", "white"]
    assert words_of("Größe 12 — das Ä") == ["größe", "12", "das", "ä"]
    assert words_of("?! _") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("a cat", 0),
        ("the dog", 1),
        ("red shirt of a man", 3),
        ("black", 0),  # one word of three, against one of six
        ("left cat.", 0),
        ("a bus", 1),  # by its article alone: what the approximation is known for
        ("bus", None),
        ("!", None),
    ],
)
def test_a_text_refers_to_the_object_with_the_nearest_sentence(text, number):
    assert SentenceJudge(OBJECTS).referent(text) == number


def test_a_tie_refers_to_nothing():
    assert SentenceJudge([["red cup"], ["red car"]]).referent("the red one") is None
    assert SentenceJudge([["red cup", "my cup"], ["red car"]]).referent("the red cup") == 0


def test_an_image_of_which_nobody_spoke_has_no_referent():
    assert SentenceJudge([]).referent("a cat") is None
    assert SentenceJudge([[], []]).referent("a cat") is None


def test_a_word_counts_as_often_as_both_say_it():
    scores = SentenceJudge([["cat cat dog"]]).scores("cat cat cat")
    assert scores.tolist() == [pytest.approx(2 * 2 / 6)]


TEXT = st.lists(st.sampled_from(["a", "the", "red", "cat", "dog", "left", "!"]), max_size=6).map(" ".join)


def plain_f1(text, sentence):
    own, other = Counter(words_of(text)), Counter(words_of(sentence))
    common = (own & other).total()
    return 2 * common / (own.total() + other.total()) if common else 0.0


@given(st.lists(st.lists(TEXT, max_size=3), max_size=5), TEXT)
def test_scores_are_the_best_f1_of_each_object_and_the_referent_the_only_best(sentences, text):
    judge = SentenceJudge(sentences)
    due = [max((plain_f1(text, each) for each in texts), default=0.0) for texts in sentences]
    assert judge.scores(text).tolist() == pytest.approx(due)
    best = max(due, default=0.0)
    only = [number for number, score in enumerate(due) if np.isclose(score, best)]
    assert judge.referent(text) == (only[0] if best > 0 and len(only) == 1 else None)


@given(st.lists(TEXT.filter(words_of), min_size=2, max_size=5, unique_by=lambda text: tuple(sorted(words_of(text)))))
def test_a_sentence_refers_to_the_object_that_it_was_said_of(texts):
    judge = SentenceJudge([[text] for text in texts])
    assert [judge.referent(text) for text in texts] == list(range(len(texts)))
