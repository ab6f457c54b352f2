"""Reduction by rules: areas, doubles, parts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.config import ReductionConfig
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.proposals import (
    Kept,
    Proposals,
    mask_records,
    reduce_proposals,
)

SIZE = (40, 50)
KEEP_ALL = {"mask_nms_iou": 1.0, "min_area": 0.0, "max_area": 1.0, "min_inside": 1.0, "max_part_area": 0.0}


def proposals_of(*boxes, ious=None):
    """Rectangles (x0, y0, x1, y1) as proposals; predicted IoU falls from the first to the last unless given."""
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    counts = tuple(rle.encode(masks))
    scores = np.asarray(ious if ious is not None else np.linspace(0.9, 0.5, len(boxes)), dtype=np.float32)
    areas = rle.areas(counts, SIZE)
    return Proposals(SIZE, counts, tuple(rle.boxes(counts, SIZE)), areas, scores, np.ones(len(boxes), np.float32))


def rows(proposals, **settings):
    return [kept.row for kept in reduce_proposals(proposals, ReductionConfig(**(KEEP_ALL | settings)))]


def test_copies_of_a_mask_have_ids_of_their_own_that_no_other_mask_changes():
    proposals = proposals_of((5, 5, 20, 20), (1, 1, 9, 9), (30, 30, 40, 40))
    twins = [Kept(1, "table:0"), Kept(1, "table:4", copy=1), Kept(1, "table:9", copy=2)]
    first, second, third = mask_records("f" * 16, proposals, twins)
    assert [each.index for each in (first, second, third)] == [1, 4, 7]
    assert second.mask_id == "f" * 16 + "-0004"
    assert first.rle_counts == second.rle_counts == third.rle_counts
    beside = mask_records("f" * 16, proposals, [Kept(0, "table:7"), Kept(1, "table:0"), Kept(1, "table:4", copy=1)])
    assert beside[1:] == (first, second)


def test_area_bounds_are_inclusive_shares_of_the_image():
    proposals = proposals_of((0, 0, 19, 1), (0, 0, 20, 1), (0, 0, 50, 20), (0, 0, 50, 21))
    assert rows(proposals, min_area=0.01, max_area=0.5) == [1, 2]


def test_of_two_doubles_the_one_with_the_higher_predicted_iou_stays():
    proposals = proposals_of((0, 0, 20, 20), (0, 0, 20, 19), (30, 0, 40, 10), ious=[0.6, 0.8, 0.7])
    assert rows(proposals, mask_nms_iou=0.7) == [1, 2]


def test_an_iou_at_the_bound_is_no_double():
    proposals = proposals_of((0, 0, 20, 20), (0, 0, 20, 14))
    assert rows(proposals, mask_nms_iou=0.7) == [0, 1]
    assert rows(proposals, mask_nms_iou=0.69) == [0]


def test_a_mask_that_only_a_dropped_one_doubles_stays():
    # Each overlaps its neighbour by an IoU of 0.6, the outer two by 0.33.
    assert rows(proposals_of((0, 0, 20, 10), (5, 0, 25, 10), (10, 0, 30, 10)), mask_nms_iou=0.5) == [0, 2]


def test_a_mask_that_sticks_out_is_no_part():
    # 36 of its 60 pixels lie inside.
    proposals = proposals_of((0, 0, 20, 20), (14, 2, 24, 8))
    assert rows(proposals, min_inside=0.61, max_part_area=0.5) == [0, 1]
    assert rows(proposals, min_inside=0.6, max_part_area=0.5) == [0]


def test_a_large_mask_inside_another_is_no_part():
    proposals = proposals_of((0, 0, 20, 20), (0, 0, 20, 11))
    assert rows(proposals, min_inside=0.9, max_part_area=0.5) == [0, 1]
    assert rows(proposals, min_inside=0.9, max_part_area=1.0) == [0]


def test_what_only_a_dropped_mask_contains_stays():
    # The middle one is half inside the large one; the small one lies in the middle one's free half.
    proposals = proposals_of((0, 0, 20, 20), (12, 0, 27, 16), (21, 2, 26, 6))
    assert rows(proposals, min_inside=0.5, max_part_area=1.0) == [0, 2]


def test_the_background_is_dropped_before_it_can_contain_anything():
    assert rows(proposals_of((0, 0, 50, 40), (5, 5, 15, 15)), max_area=0.8, min_inside=0.9, max_part_area=0.5) == [1]


BOXES = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(st.lists(BOXES, max_size=8), st.floats(0.3, 1), st.floats(0.3, 1), st.floats(0, 1))
def test_what_stays_holds_no_doubles_and_no_parts_and_comes_in_order(boxes, nms_iou, min_inside, max_part_area):
    proposals = proposals_of(*boxes)
    kept = rows(proposals, mask_nms_iou=nms_iou, min_inside=min_inside, max_part_area=max_part_area)
    assert kept == sorted(set(kept))
    assert bool(kept) == bool(boxes)
    counts = [proposals.counts[row] for row in kept]
    ious, inside = rle.ious(counts, counts, SIZE), rle.shares_inside(counts, counts, SIZE)
    areas = proposals.areas_px[kept]
    for i in range(len(kept)):
        for j in range(len(kept)):
            if i != j:
                assert ious[i, j] <= nms_iou
                assert areas[i] > areas[j] or inside[i, j] < min_inside or areas[i] > max_part_area * areas[j]


@pytest.mark.parametrize("ious", [[0.9, 0.8, 0.7], [0.7, 0.8, 0.9], [0.7, 0.9, 0.8]])
def test_parts_do_not_depend_on_the_order_of_scores(ious):
    proposals = proposals_of((0, 0, 20, 20), (2, 2, 8, 8), (30, 30, 40, 40), ious=ious)
    assert rows(proposals, min_inside=0.9, max_part_area=0.5) == [0, 2]
