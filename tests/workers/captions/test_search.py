import numpy as np
import pytest

from workers.captions.beam import BeamSearch
from workers.captions.search import Live, LiveBeams


def live(num_rows, num_beams):
    order = np.arange(num_rows)
    beams = tuple(LiveBeams(crop, BeamSearch(2, 39, 1.0), (0, 0)) for crop in range(num_beams))
    return Live(order, order % 3, order[::-1].copy(), order + 10, beams)


@pytest.mark.parametrize(("num_rows", "num_beams"), [(2, 0), (0, 2), (1, 1), (3, 1), (4, 3), (0, 3), (1, 2), (7, 5)])
def test_halves_hold_everything_once_and_neither_is_empty(num_rows, num_beams):
    whole = live(num_rows, num_beams)
    left, right = whole.halves()
    assert sorted([*left.rows, *right.rows]) == list(range(num_rows))
    assert left.beams + right.beams == whole.beams
    assert left.num_searches > 0
    assert right.num_searches > 0
    assert all(part.tokens[place] == row + 10 for part in (left, right) for place, row in enumerate(part.rows))


def test_halves_keep_rows_of_one_parent_together():
    left, right = live(6, 0).halves()
    assert max(left.parents) < min(right.parents)


def test_requests_name_sampling_rows_first_and_then_every_beam():
    parents, tokens, crops = live(2, 2).requests(sot=38)
    assert parents.tolist() == [1, 0, 0, 0, 0, 0]
    assert tokens.tolist() == [10, 11, 38, 38, 38, 38]
    assert crops.tolist() == [0, 1, 0, 0, 1, 1]
