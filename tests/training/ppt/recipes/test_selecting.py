"""Select, by hand: which candidate gets c = 1."""

import pytest
import torch

from training.ppt.recipes.selecting import select


def _columns(*ranges: tuple[int, int]) -> torch.Tensor:
    """Masks (E, 2, 8) of whole columns, from the first to below the second."""
    masks = torch.zeros(len(ranges), 2, 8, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, ranges, strict=True):
        mask[:, start:stop] = True
    return masks


def test_the_candidate_of_the_highest_iou_is_the_referent_and_no_other() -> None:
    # IoUs with columns 2 to 5: 2/6, 3/4, 0.
    chosen = select(_columns((0, 4), (3, 6), (6, 8)), _columns((2, 6))[0], min_iou=0.5)

    assert chosen.tolist() == [0.0, 1.0, 0.0]


def test_below_the_threshold_all_stay_undecided_and_none_is_deleted() -> None:
    candidates = _columns((0, 4), (3, 6), (6, 8))

    assert select(candidates, _columns((2, 6))[0], min_iou=0.76).tolist() == [0.0, 0.0, 0.0]
    assert select(candidates, _columns((2, 6))[0], min_iou=0.75).tolist() == [0.0, 1.0, 0.0]


def test_of_equal_candidates_the_first_is_chosen_and_an_empty_prediction_chooses_none() -> None:
    candidates = _columns((0, 4), (0, 4))

    assert select(candidates, candidates[1], min_iou=1.0).tolist() == [1.0, 0.0]
    assert select(candidates, torch.zeros(2, 8, dtype=torch.bool), min_iou=0.01).tolist() == [0.0, 0.0]


def test_shares_of_cells_count_from_a_half_on() -> None:
    shares = torch.tensor([[[0.5, 0.4, 0.0]], [[0.0, 0.0, 1.0]]])

    assert select(shares, torch.tensor([[True, False, False]]), min_iou=1.0).tolist() == [1.0, 0.0]


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a prediction of \(4, 4\) for candidates of \(2, 8\)"):
        select(_columns((0, 4)), torch.zeros(4, 4, dtype=torch.bool), min_iou=0.5)
