from __future__ import annotations

import pytest

from pseudoris.primitives.threads import map_in_threads


def test_no_more_are_taken_than_are_worked_on_or_wait():
    taken, done, most = [], [], 0

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    for result in map_in_threads(lambda item: item, items(), 3):
        done.append(result)
        most = max(most, len(taken) - len(done))
    assert done == list(range(100))
    assert most <= 6


def test_an_error_comes_in_its_turn_and_what_has_not_begun_is_not_done():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise KeyError(item)
        return item

    results = map_in_threads(work, range(1_000), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(results)
    assert len(begun) < 10
