import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pseudoris.schemas.shard import MaskRecord
from pseudoris.workers.composing.likelihood import (
    SIDES,
    MaskPosition,
    doubtless_lead,
    inside_third,
    maybe_lies,
    position_of,
    surely_lies,
)
from pseudoris.workers.masks import rle

shares = st.floats(0, 1)
pairs = st.tuples(shares, shares, shares, shares, st.sampled_from([0.5, 1.0, 1.5]))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any))
def test_a_masks_place_is_the_mean_of_its_pixels(pixels):
    size = pixels.shape
    counts = rle.encode(torch.from_numpy(pixels[None]))
    mask = MaskRecord("m", 0, size, counts[0], rle.boxes(counts, size)[0], int(pixels.sum()))
    y, x = np.nonzero(pixels)
    place = position_of(mask)
    assert np.allclose((place.x, place.y), ((x.mean() + 0.5) / size[1], (y.mean() + 0.5) / size[0]))
    assert place.aspect == size[0] / size[1]


@given(pairs, st.sampled_from(SIDES))
def test_what_surely_lies_on_a_side_maybe_does_and_surely_not_on_the_opposite_one(pair, side):
    item, anchor = MaskPosition(*pair[:2], pair[4]), MaskPosition(*pair[2:])
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    if surely_lies(side, item, anchor):
        assert maybe_lies(side, item, anchor)
        assert not maybe_lies(opposite, item, anchor)
        assert surely_lies(opposite, anchor, item)


def test_steps_are_measured_in_pixels_whatever_the_picture_s_shape():
    # Of a picture twice as high as wide, a fifth of the height is two fifths of the width.
    anchor = MaskPosition(0.5, 0.5, 2.0)
    assert surely_lies("bottom", MaskPosition(0.8, 0.7, 2.0), anchor)
    assert surely_lies("right", MaskPosition(0.8, 0.7), MaskPosition(0.5, 0.5))


def test_a_lead_is_doubtless_from_about_the_gap_on_and_a_side_within_its_third():
    leads = doubtless_lead(np.array([-0.2, 0.0, 0.06, 0.08, 0.2]))
    assert leads[:2] == pytest.approx([0.0, 0.0], abs=0.01)
    assert leads[2] == pytest.approx(0.5)
    assert leads[3] > 0.8
    assert leads[4] > 0.999
    inside = [inside_third("left", MaskPosition(x, 0.5)) for x in (0.1, 1 / 3, 0.5)]
    assert inside == pytest.approx([1.0, 0.5, 0.0], abs=0.01)
    assert inside_third("bottom", MaskPosition(0.5, 0.9)) > 0.99
