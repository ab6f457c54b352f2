from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.workers.masks.iou_assignment import iou_table, match_masks


def box(x0, y0, x1, y1):
    mask = np.zeros((20, 20), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_iou_is_intersection_over_union():
    table = iou_table(np.stack([box(0, 0, 10, 10)]), np.stack([box(5, 0, 15, 10), box(10, 10, 20, 20)]))
    assert table.tolist() == [[pytest.approx(1 / 3), 0.0]]


def test_empty_masks_have_no_overlap():
    assert iou_table(np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=bool)).tolist() == [[0.0]]


def test_two_masks_of_one_object_cannot_both_be_right():
    assert match_masks(np.array([[0.9], [0.8]])) == {0: 0}


def test_pairs_below_the_bound_do_not_push_good_pairs_aside():
    # The largest total IoU without the bound would be 0.49 + 0.49.
    assert match_masks(np.array([[0.9, 0.49], [0.49, 0.0]])) == {0: 0}


def test_no_masks_match_nothing():
    table = iou_table(np.zeros((0, 4, 4), dtype=bool), np.zeros((3, 4, 4), dtype=bool))
    assert table.shape == (0, 3)
    assert match_masks(table) == {}
    assert match_masks(np.zeros((0, 3))) == {}


@st.composite
def tables(draw):
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = st.lists(st.integers(0, 20), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return np.array(draw(values)).reshape(shape) / 20


@given(tables())
def test_the_assignment_is_one_to_one_above_the_bound_and_no_other_has_a_larger_total(ious):
    pairs = match_masks(ious)
    assert len(set(pairs.values())) == len(pairs)
    assert all(ious[pair] >= 0.5 for pair in pairs.items())
    worth = np.where(ious >= 0.5, ious, 0.0)
    wide = worth if worth.shape[0] <= worth.shape[1] else worth.T
    best = max(sum(wide[range(len(wide)), order]) for order in permutations(range(wide.shape[1]), len(wide)))
    assert sum(ious[pair] for pair in pairs.items()) == pytest.approx(best)
