"""Matching instances to proposals."""

import numpy as np
import pytest
import torch

from workers.masks import rle
from workers.masks.instances import Instances, encode_box, match_instances
from workers.masks.proposals import Proposals
from workers.masks.reduction import Kept

SIZE = (40, 50)


def codes(*boxes):
    return tuple(encode_box(box, SIZE) for box in boxes)


def proposals_of(*boxes):
    counts = codes(*boxes)
    scores = np.full(len(boxes), 0.5, dtype=np.float32)
    return Proposals(SIZE, counts, tuple(rle.boxes(counts, SIZE)), rle.areas(counts, SIZE), scores, scores)


def instances_of(*boxes, rows=None):
    return Instances(codes(*boxes), tuple(rows or range(len(boxes))))


def match(proposals, instances, how="intersection"):
    return match_instances(proposals, instances, name="table", match=how)


SMALL, LARGE, ELSEWHERE = (10, 10, 20, 20), (5, 5, 40, 35), (42, 2, 48, 8)


def test_the_largest_intersection_wins_so_large_masks_win():
    assert match(proposals_of(SMALL, LARGE), instances_of((10, 10, 22, 20))) == [Kept(1, "table:0")]


def test_by_iou_the_best_fitting_mask_wins():
    assert match(proposals_of(SMALL, LARGE), instances_of((10, 10, 22, 20)), "iou") == [Kept(0, "table:0")]


def test_among_equals_the_first_proposal_wins():
    assert match(proposals_of(SMALL, LARGE), instances_of(SMALL)) == [Kept(0, "table:0")]


def test_two_instances_that_pick_one_mask_keep_it_once_with_the_first_row():
    both = instances_of((6, 6, 9, 9), (30, 30, 36, 34), rows=[17, 23])
    assert match(proposals_of(SMALL, LARGE), both) == [Kept(1, "table:17")]


def test_an_instance_that_touches_no_mask_is_dropped():
    assert match(proposals_of(SMALL), instances_of(ELSEWHERE)) == []


def test_masks_come_in_the_generators_order_not_in_the_instances():
    found = match(proposals_of(SMALL, ELSEWHERE), instances_of(ELSEWHERE, SMALL))
    assert found == [Kept(0, "table:1"), Kept(1, "table:0")]


def test_an_empty_instance_matches_nothing():
    assert match(proposals_of(SMALL), instances_of((3, 3, 3, 3))) == []
    assert match(proposals_of(SMALL), instances_of((3, 3, 3, 3)), "iou") == []


@pytest.mark.parametrize(("proposals", "instances"), [((), (SMALL,)), ((SMALL,), ()), ((), ())])
def test_nothing_on_either_side_gives_nothing(proposals, instances):
    assert match(proposals_of(*proposals), instances_of(*instances)) == []


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((2, 3, 5, 7), (2, 3, 5, 7)),
        ((1.5, 2.5, 4.5, 6.5), (1, 2, 4, 6)),
        ((1.6, 2.6, 4.6, 6.6), (2, 3, 5, 7)),
        ((-10, -10, 900, 900), (0, 0, 50, 40)),
        ((60, 60, 70, 70), (0, 0, 0, 0)),
    ],
)
def test_a_box_covers_the_pixels_whose_centres_it_holds(box, expected):
    assert rle.boxes([encode_box(box, SIZE)], SIZE) == [expected]


def test_a_box_is_filled():
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:7, 2:5] = True
    np.testing.assert_array_equal(rle.decode([encode_box((2, 3, 5, 7), SIZE)], SIZE)[0], mask)
    assert torch.from_numpy(mask).sum() == 12
