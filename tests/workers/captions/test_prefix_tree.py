"""The prefix tree merges equal prefixes, and splits its active rows and beams without loss."""

import numpy as np
import pytest

from pseudoris.workers.captions.beam_search import BeamSearch
from pseudoris.workers.captions.prefix_tree import ActiveBeams, ActiveRows, crop_slots, extend


def active(num_rows, num_beams):
    order = np.arange(num_rows)
    beams = tuple(ActiveBeams(crop, BeamSearch(2, 39, 1.0), (0, 0)) for crop in range(num_beams))
    return ActiveRows(order, order % 3, order[::-1].copy(), order + 10, beams)


@pytest.mark.parametrize(("num_rows", "num_beams"), [(2, 0), (0, 2), (1, 1), (3, 1), (4, 3), (0, 3), (1, 2), (7, 5)])
def test_halves_hold_everything_once_and_neither_is_empty(num_rows, num_beams):
    whole = active(num_rows, num_beams)
    left, right = whole.halves()
    assert sorted([*left.rows, *right.rows]) == list(range(num_rows))
    assert left.beams + right.beams == whole.beams
    assert left.num_searches > 0
    assert right.num_searches > 0
    assert all(part.tokens[place] == row + 10 for part in (left, right) for place, row in enumerate(part.rows))


def test_halves_keep_rows_of_one_parent_together():
    left, right = active(6, 0).halves()
    assert max(left.parents) < min(right.parents)


def test_requests_name_sampling_rows_first_and_then_every_beam():
    parents, tokens, crops = active(2, 2).requests(sot=38)
    assert parents.tolist() == [1, 0, 0, 0, 0, 0]
    assert tokens.tolist() == [10, 11, 38, 38, 38, 38]
    assert crops.tolist() == [0, 1, 0, 0, 1, 1]


def ints(*values):
    return np.array(values, dtype=np.int64)


def needs(*rows):
    return np.array(rows, dtype=np.bool_)


def test_equal_prefixes_become_one_node_that_serves_all_their_crops():
    level = extend(None, ints(0, 0, 0), ints(5, 3, 5), needs([1, 0, 0], [0, 1, 0], [1, 0, 1]))
    assert level.tokens.tolist() == [3, 5]
    assert level.row_prefix.tolist() == [1, 0, 1]
    assert list(zip(level.pair_crop.tolist(), level.pair_prefix.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 1),
    ]
    assert level.pair_of.tolist() == [[-1, 1, -1], [0, -1, 2]]


def test_the_same_token_after_other_prefixes_is_another_node():
    root = extend(None, ints(0, 0), ints(1, 2), needs([1], [1]))
    level = extend(root, root.row_prefix, ints(7, 7), needs([1], [1]))
    assert level.num_prefixes == 2
    assert level.parents.tolist() == [0, 1]


def test_a_pair_finds_the_pair_of_its_parent_prefix_and_its_crop():
    root = extend(None, ints(0, 0), ints(1, 2), needs([1, 1], [1, 1]))
    level = extend(root, ints(1, 1, 0), ints(4, 5, 4), needs([1, 1], [0, 1], [1, 0]))
    parents = [(root.pair_crop[p], root.tokens[root.pair_prefix[p]]) for p in level.pair_parent]
    expected = zip(level.pair_crop, root.tokens[level.parents[level.pair_prefix]], strict=True)
    assert parents == list(expected)
    assert level.num_pairs == 4


def test_slots_give_every_crop_a_line_as_long_as_the_longest():
    slots, rows_a_crop = crop_slots(ints(0, 0, 2, 2, 2), 4)
    assert rows_a_crop == 3
    assert slots.tolist() == [0, 1, 6, 7, 8]
