"""Run-length codes, held to pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from benchmarks.pretended_gpu import pretended_gpu
from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.workers.masks import rle
from tests.builders.crops import runs_of

SIZES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")


@st.composite
def stacks(draw):
    """Masks (N, H, W) of one size, from empty to full."""
    size = draw(SIZES)
    return draw(npst.arrays(np.bool_, (draw(st.integers(1, 4)), *size)))


@given(stacks())
def test_encoding_equals_pycocotools(masks):
    assert rle.encode(torch.from_numpy(masks)) == [reference(mask) for mask in masks]


def test_masks_on_a_gpu_have_the_same_codes():
    masks = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0)) > 0.7
    with pretended_gpu():
        assert rle.encode(masks.to("cuda")) == rle.encode(masks)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 5000), (5000, 1), (1, 1), (300, 411)]), st.floats(0, 1))
def test_encoding_equals_pycocotools_on_long_runs(seed, size, share):
    rng = np.random.default_rng(seed)
    # Large blocks give runs, and differences of runs, of several characters and both signs.
    blocks = rng.random((3, -(-size[0] // 64), -(-size[1] // 64))) < share
    masks = blocks.repeat(64, axis=1).repeat(64, axis=2)[:, : size[0], : size[1]]
    assert rle.encode(torch.from_numpy(masks)) == [reference(mask) for mask in masks]


@given(stacks())
def test_runs_are_those_of_the_pixels_column_by_column(masks):
    for code, mask in zip(rle.encode(torch.from_numpy(masks)), masks, strict=True):
        np.testing.assert_array_equal(decode_runs(code), runs_of(mask))


@pytest.mark.slow
@given(stacks())
def test_area_and_exclusive_box_are_those_of_the_pixels(masks):
    counts, size = rle.encode(torch.from_numpy(masks)), masks.shape[1:]
    assert rle.areas(counts, size).tolist() == [int(mask.sum()) for mask in masks]
    for mask, (x0, y0, x1, y1) in zip(masks, rle.boxes(counts, size), strict=True):
        if not mask.any():
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)
            continue
        ys, xs = np.nonzero(mask)
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_areas_of_more_masks_than_pycocotools_takes_at_once():
    masks = torch.arange(600)[:, None, None] >= torch.arange(600).reshape(20, 30)
    assert rle.areas(rle.encode(masks), (20, 30)).tolist() == list(range(1, 601))


@pytest.mark.slow
@given(stacks())
def test_iou_and_share_inside_are_those_of_the_pixels(masks):
    counts, size = rle.encode(torch.from_numpy(masks)), masks.shape[1:]
    ious, shares = rle.ious(counts, counts, size), rle.shares_inside(counts, counts, size)
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            intersection = (one & other).sum()
            assert ious[i, j] == pytest.approx(intersection / max(1, (one | other).sum()))
            assert shares[i, j] == pytest.approx(intersection / max(1, one.sum()))


@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=12), SIZES)
def test_a_foreign_string_is_valid_only_if_its_runs_fill_the_image(text, size):
    if rle.is_valid(text, size):
        decoded = rle.decode([text], size)[0]
        assert coco.area({"size": list(size), "counts": text.encode()}) == decoded.sum()
