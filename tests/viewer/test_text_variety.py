"""Duplicates are counted, and the vocabulary's growth is measured, as their definitions say."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.viewer import text_variety
from pseudoris.viewer.text_variety import MIN_JACCARD, DuplicateCounter, Duplicates, VocabularyGrowth, word_set

A, B = ("a-0000",), ("a-0001",)


def counted(*images):
    counter = DuplicateCounter()
    for image in images:
        counter.add_image(image)
    return counter.counts()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A photo of the Red, red star", {"red", "star"}),
        ("star red", {"red", "star"}),
        ("man's t-shirt", {"man's", "t-shirt"}),
        ("the photo", {"the", "photo"}),
        ("grün_1", {"grün", "1"}),
        ("?!", set()),
    ],
)
def test_a_word_set_has_no_order_case_article_or_frame(text, words):
    assert word_set(text) == words


def test_what_an_earlier_image_said_is_seen_before_and_the_same_image_does_not_count():
    found = counted([(A, "a star"), (A, "the star")], [(A, "an image of a star"), (A, "a moon")])

    assert (found.seen_before, found.counted) == (1, 4)


def test_an_image_of_very_many_expressions_is_compared_in_part_and_says_so(monkeypatch):
    monkeypatch.setattr(text_variety, "MAX_COMPARED", 3)
    found = counted([(A, "a star")] * 5)

    assert found == Duplicates(compared=3, left_out=2, same_mask=3, other_mask=0, seen_before=0, counted=5)


WORDS = st.lists(st.sampled_from(["red", "blue", "star", "boat", "left", "small"]), min_size=1, max_size=6).map(
    " ".join
)


@given(st.lists(st.tuples(st.sampled_from([A, B]), WORDS), max_size=8))
def test_the_counts_are_those_of_the_definition(spoken):
    same, other = set(), set()
    for (i, (first, a)), (j, (second, b)) in combinations(enumerate(spoken), 2):
        one, two = set(a.split()), set(b.split())
        if len(one & two) / len(one | two) >= MIN_JACCARD:
            (same if first == second else other).update((i, j))

    found = counted(spoken)
    assert (found.same_mask, found.other_mask) == (len(same), len(other))


def growth_of(texts):
    growth = VocabularyGrowth()
    growth.add(texts)
    return growth.growth()


def test_the_curve_begins_at_nothing_and_counts_each_word_once():
    found = growth_of(["a red star", "a red boat", "A STAR"])

    assert found.points == ((0, 0), (1, 3), (2, 4), (3, 4))
    assert (found.num_words, found.heaps_exponent) == (4, None)


def test_a_long_run_has_few_points_and_ends_at_its_end():
    found = growth_of(f"word{n}" for n in range(100_003))

    assert len(found.points) < 300
    assert found.points[-1] == (100_003, 100_003)
    assert [y for _, y in found.points] == sorted(y for _, y in found.points)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_exponent_of_heaps_law_is_found(exponent):
    words, texts = 0, []
    for n in range(1, 4_001):
        new = round(n**exponent) - words
        texts.append(" ".join(f"w{words + each}" for each in range(new)) or "w0")
        words += new

    assert growth_of(texts).heaps_exponent == pytest.approx(exponent, abs=0.03)
