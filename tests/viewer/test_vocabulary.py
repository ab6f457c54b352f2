import pytest

from viewer.vocabulary import VocabularyGrowth


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


def test_without_an_expression_there_is_one_point():
    assert growth_of([]).points == ((0, 0),)
