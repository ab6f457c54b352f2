from __future__ import annotations

import pytest
import torch

from pseudoris.training.student.padded_square import Placement


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (20, 64), (100, 30), (1, 40)])
def test_a_mask_comes_back_where_it_was(size):
    height, width = size
    mask = torch.zeros(size, dtype=torch.bool)
    mask[height // 4 : max(height // 2, height // 4 + 1), width // 4 : width // 2] = True
    placement = Placement.of(size, 64)
    shares = placement.mask(mask, 64)
    assert shares.shape == (64, 64)
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    back = placement.back((shares - 0.5)[None])[0] > 0
    assert back.shape == mask.shape
    assert (back & mask).sum() / (back | mask).sum() > 0.8


def test_an_image_is_scaled_to_fit_and_framed():
    placement = Placement.of((10, 20), 40)
    square = placement.image(torch.full((3, 10, 20), 200, dtype=torch.uint8), (0.0, 0.5, 1.0))
    assert (placement.inner, placement.top, placement.left) == ((20, 40), 10, 0)
    assert square[:, 0, 0].tolist() == [0, 128, 255]
    assert (square[:, 10:30] == 200).all()


def test_a_smaller_mask_holds_shares_of_its_pixels():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = mask[2:, 2:] = True
    assert Placement.of((4, 4), 4).mask(mask, 2).tolist() == [[0.25, 0.0], [0.0, 1.0]]
