import numpy as np
import pytest

from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.grammar import parse, words_of
from pseudoris.synthworld.noisy_captions import noisy_caption

TRUTH = Attributes("circle", "red", "dotted", "small", "tail")


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(0)
    return [noisy_caption(TRUTH, rng) for _ in range(4000)]


def test_every_caption_is_of_the_grammar_and_long_enough_to_end(captions):
    # The start token and four words: the shortest prefix after which decoding may end.
    assert all(parse(caption) is not None and len(caption.split()) >= 4 for caption in captions)


def test_almost_half_of_the_captions_name_the_category_alone(captions):
    share = np.mean([len(words_of(parse(caption))) == 1 for caption in captions])
    assert share == pytest.approx(0.45, abs=0.03)


def test_three_percent_of_the_words_are_wrong(captions):
    wrong, said = 0, 0
    for caption in captions:
        description = parse(caption)
        for name in ("category", "colour", "pattern", "size", "part"):
            word = getattr(description, name)
            said += word is not None
            wrong += word not in (None, getattr(TRUTH, name))
    assert 0.015 < wrong / said < 0.035


def test_captions_never_speak_of_position(captions):
    assert all(parse(caption).position is None for caption in captions)


def test_an_object_without_a_part_is_given_none():
    rng = np.random.default_rng(1)
    assert not any("with" in noisy_caption(Attributes("star", "blue", "plain", "large"), rng) for _ in range(300))
