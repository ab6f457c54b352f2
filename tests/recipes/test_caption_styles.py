"""Captions in other words: what they say of an object, and how often it is wrong."""

from collections import Counter

import numpy as np
import pytest

from pseudoris.synthworld.attributes import CATEGORIES, Attributes
from recipes.caption_styles import NAMES, WIDER_NAMES, caption_with_clauses, caption_with_names


def captions(say, truth, count=4000):
    rng = np.random.default_rng(0)
    return [say(truth, rng).split() for _ in range(count)]


def test_a_category_has_three_names_of_its_own_and_one_wider_name():
    assert list(NAMES) == list(CATEGORIES)
    every = [name for names in NAMES.values() for name in names] + list(WIDER_NAMES)
    assert len(set(every)) == len(every) == 64
    assert sorted(each for categories in WIDER_NAMES.values() for each in categories) == sorted(CATEGORIES)
    said = Counter(
        word
        for caption in captions(caption_with_names, Attributes("arrow", "red", "plain", "small"))
        for word in caption
    )
    total = sum(said[name] for name in every)
    for name, share in {"arrow": 0.88 * 0.55, "pointer": 0.88 * 0.27, "dart": 0.88 * 0.18, "symbol": 0.12}.items():
        assert said[name] / total == pytest.approx(0.97 * share, abs=0.02)


def test_clauses_say_what_the_object_is_and_has_and_err_where_words_are_alike():
    found = captions(caption_with_clauses, Attributes("circle", "red", "plain", "small", "tail"))
    texts = {" ".join(caption) for caption in found}
    assert {"a circle which is red and has a tail", "there is a circle that has a tail on a table"} <= texts
    said = Counter(word for caption in found for word in caption)
    assert said["ring"] / (said["ring"] + said["circle"]) == pytest.approx(0.1, abs=0.02)
    assert said["orange"] / (said["orange"] + said["red"]) == pytest.approx(0.1, abs=0.02)
    assert said["large"] / (said["large"] + said["small"]) < 0.03
