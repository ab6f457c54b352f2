from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.store.reports.statistics import Distribution, TopTexts

WORDS = st.lists(st.sampled_from("abcdefghij"), max_size=60)


@given(
    parts=st.lists(st.lists(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), max_size=20), max_size=5),
    share=st.floats(0, 1),
)
def test_a_quantile_is_numpys_up_to_four_digits(parts, share):
    distribution = Distribution()
    for part in parts:
        distribution.add(part)
    values = [value for part in parts for value in part]
    assert distribution.num_values == len(values)
    if not values:
        assert distribution.quantile(share) is None
        assert distribution.mean is None
        return
    due = np.quantile(values, share, method="inverted_cdf")
    got = distribution.quantile(share)
    # Equal shares may round to the neighbour where share times number is a whole number.
    near = [value for value in values if value == pytest.approx(got, rel=5.1e-4)]
    assert near
    assert got == pytest.approx(due, rel=5.1e-4) or abs(np.mean(np.array(values) <= due) - share) < 1e-9
    assert distribution.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)


def test_whole_numbers_are_exact_and_undefined_values_are_passed_over():
    distribution = Distribution()
    distribution.add([0, 3, 9_999, float("nan"), 7])
    assert [distribution.quantile(share) for share in (0, 0.5, 1)] == [0, 3, 9_999]
    assert distribution.num_values == 4


@given(parts=st.lists(WORDS, max_size=8), capacity=st.integers(2, 12))
def test_a_count_is_too_low_by_the_error_at_most_and_never_too_high(parts, capacity):
    texts, true = TopTexts(capacity), Counter()
    for part in parts:
        texts.add(Counter(part))
        true.update(part)
    shown = dict(texts.top(100))
    for text, count in true.items():
        assert shown.get(text, 0) <= count <= shown.get(text, 0) + texts.error
    if len(true) <= capacity:
        assert texts.error == 0
        assert texts.top(3) == sorted(true.items(), key=lambda item: (-item[1], item[0]))[:3]
