"""Batches stay below their bound, and pieces of a crop are all of it, once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.images.cuts import Cut, batches, size_bytes


def build_cut(crop=0, box=(0, 0, 50, 40), *, size=16):
    return Cut(crop=crop, mask=crop, is_masked=False, box=box, rows=(0, size), columns=(0, size))


def test_crops_that_fit_come_together_and_in_order():
    cuts = [build_cut(crop) for crop in range(5)]
    each = size_bytes(cuts[0], size=16)
    found = list(batches(cuts, size=16, max_bytes=2 * each))
    assert [[cut.crop for cut in batch] for batch in found] == [[0, 1], [2, 3], [4]]


@given(
    boxes=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=3),
    max_bytes=st.sampled_from([1, 30_000, 10**6, 10**8]),
    size=st.sampled_from([1, 5, 16]),
)
def test_the_pieces_of_every_crop_are_all_of_its_outputs_once(boxes, max_bytes, size):
    cuts = [build_cut(crop, (0, 0, *box), size=size) for crop, box in enumerate(boxes)]
    computed = np.zeros((len(cuts), size, size), dtype=np.int64)
    for batch in batches(cuts, size=size, max_bytes=max_bytes):
        for cut in batch:
            computed[cut.crop, slice(*cut.rows), slice(*cut.columns)] += 1
    assert (computed == 1).all()


@pytest.mark.parametrize("box", [(0, 0, 3, 2_000_000), (0, 0, 2_000_000, 3), (0, 0, 9000, 9000), (0, 0, 1, 1)])
def test_no_batch_takes_more_than_its_bound(box):
    for batch in batches([build_cut(0, box, size=224)] * 3, size=224, max_bytes=64 * 2**20):
        assert sum(size_bytes(cut, size=224) for cut in batch) <= 64 * 2**20


def test_a_single_output_is_not_divided_whatever_it_takes():
    pieces = [cut for batch in batches([build_cut(size=2)], size=2, max_bytes=1) for cut in batch]
    assert {(cut.rows, cut.columns) for cut in pieces} == {((y, y + 1), (x, x + 1)) for y in range(2) for x in range(2)}


def test_the_side_is_the_longer_edge():
    assert build_cut(box=(10, 10, 15, 40)).side == 30
