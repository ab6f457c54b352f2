"""What is counted of a run, and that duplicates and growth are what their definitions say."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.store.reports.statistics import DrawKind, KeptCount
from pseudoris.viewer import quality
from pseudoris.viewer.gallery_sample import read_summary
from pseudoris.viewer.quality import MIN_JACCARD, Duplicates, Growth, word_set
from tests.store.builders import empty, quarantined
from tests.viewer.builders import annotated, write_run

TWO = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, "a blue circle", 1.4, 0)]


def quality_of_run(location, **options):
    return quality.quality_of_run(location, read_summary(location), **options)


@pytest.fixture
def run(tmp_path):
    """Two shards: an image of two masks, one of a lone mask, an empty and a quarantined one; then one of two masks."""
    return write_run(
        tmp_path / "run",
        ("a.png", lambda entry: annotated(entry, 2, TWO)),
        ("b.png", lambda entry: annotated(entry, 1, [(0, "a lone circle", None, None)])),
        ("c.png", empty),
        ("d.png", quarantined),
        ("e.png", lambda entry: annotated(entry, 2, [(0, "a Red circle!", 1.6, 1)])),
    )


def test_scores_come_with_the_verdict_and_a_mask_alone_has_only_one(run):
    found = quality_of_run(run)

    np.testing.assert_allclose(found.scores["distinctiveness"], [1.5, 1.2, 1.4, 1.6])
    assert found.is_kept["distinctiveness"].tolist() == [True, False, True, True]
    assert (found.scores["correctness"].size, found.scores["uniqueness"].size) == (5, 4)


def test_every_draw_counts_for_its_decoder_and_crop(run):
    found = quality_of_run(run)

    assert found.draws == {
        DrawKind("beam", None, "masked"): KeptCount(5, 4),
        DrawKind("top_p", 0.4, "context_1.2"): KeptCount(5, 4),
    }


A, B = ("a-0000",), ("a-0001",)


def counted(*images):
    counter = Duplicates()
    for image in images:
        counter.add_image(image)
    return counter


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
    growth = Growth()
    growth.add(texts)
    return growth


def test_the_curve_begins_at_nothing_and_counts_each_word_once():
    found = growth_of(["a red star", "a red boat", "A STAR"])

    assert found.points == ((0, 0), (1, 3), (2, 4), (3, 4))
    assert (found.num_words, found.heaps_exponent) == (4, None)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_exponent_of_heaps_law_is_found(exponent):
    words, texts = 0, []
    for n in range(1, 4_001):
        new = round(n**exponent) - words
        texts.append(" ".join(f"w{words + each}" for each in range(new)) or "w0")
        words += new

    assert growth_of(texts).heaps_exponent == pytest.approx(exponent, abs=0.03)
