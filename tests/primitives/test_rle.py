"""Run-length codes and COCO's other forms of a segmentation, held to pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from pseudoris.primitives import rle
from pseudoris.primitives.run_lengths import RleSummary, summarise_rle
from tests.builders import human
from tests.builders.crops import runs_of
from tests.oracles.pretended_gpu import pretended_gpu

SIZES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


@st.composite
def stacks(draw):
    """Masks (N, H, W) of one size, from empty to full."""
    size = draw(SIZES)
    return draw(npst.arrays(np.bool_, (draw(st.integers(1, 4)), *size)))


@given(stacks())
def test_encoding_equals_pycocotools(masks):
    assert rle.encode(torch.from_numpy(masks)) == [human.rle(mask)["counts"] for mask in masks]


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
    assert rle.encode(torch.from_numpy(masks)) == [human.rle(mask)["counts"] for mask in masks]


def plain(pixels: np.ndarray) -> RleSummary:
    """The definition, on the pixels themselves."""
    rows, columns = np.nonzero(pixels)
    if not rows.size:
        return RleSummary(0, (0, 0, 0, 0))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return RleSummary(rows.size, tuple(int(side) for side in box))


@given(stacks())
def test_area_and_exclusive_box_are_those_of_the_pixels(masks):
    counts, size = rle.encode(torch.from_numpy(masks)), masks.shape[1:]
    due = [plain(mask) for mask in masks]
    assert [summarise_rle(*size, each) for each in counts] == due
    assert rle.areas(counts, size).tolist() == [each.area_px for each in due]
    assert list(map(tuple, rle.boxes(counts, size))) == [each.box_xyxy_px for each in due]


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


SIZE = (9, 13)
BOX = [2, 1, 7, 1, 7, 5, 2, 5]


@given(mask=npst.arrays(bool, SIZE))
def test_every_form_of_rle_gives_the_mask(mask):
    whole = human.rle(mask)["counts"]
    forms = [{"size": list(SIZE), "counts": counts} for counts in (whole.encode(), whole, runs_of(mask).tolist())]
    for form in (*forms, *([each] for each in forms)):
        np.testing.assert_array_equal(rle.decode([rle.compressed_counts(form, SIZE)], SIZE)[0], mask)


def test_overlapping_polygons_are_one_mask_of_ones():
    mask = rle.decode([rle.compressed_counts([BOX, [5, 3, 11, 3, 11, 8, 5, 8]], SIZE)], SIZE)[0]
    expected = np.zeros(SIZE, bool)
    expected[1:5, 2:7] = expected[3:8, 5:11] = True
    np.testing.assert_array_equal(mask, expected)


@given(st.lists(st.tuples(*[st.floats(-40, 60) | st.floats(-1e9, 1e9)] * 2), min_size=3, max_size=8))
def test_a_polygon_that_leaves_the_image_is_clipped_and_keeps_its_shape(points):
    mask = rle.decode([rle.compressed_counts([[value for point in points for value in point]], SIZE)], SIZE)[0]
    # Even-odd at the centres of the pixels, without those within a pixel of an edge: COCO rounds there.
    y, x = (axis + 0.5 for axis in np.indices(SIZE))
    inside, near = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        run, rise = x1 - x0, y1 - y0
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + run * (y - y0) / (rise or 1))
        part = np.clip(((x - x0) * run + (y - y0) * rise) / ((run * run + rise * rise) or 1), 0, 1)
        near |= np.hypot(x - x0 - part * run, y - y0 - part * rise) < 1
    np.testing.assert_array_equal(mask[~near], inside[~near])


@pytest.mark.parametrize(
    ("polygon", "area"),
    [
        ([-50, 0, 50, 0, 50, 50, -50, 50], 2500),
        ([-1e6, -1e6, 1e6, 1e6, -1e6, 1e6], 5000),
        ([-100, 50, 50, -100, 200, 50, 50, 200], 10000),
        ([50, -100, 110, 50, 50, 200, -10, 50], 9500),
        ([-50, -50, 50, -50, 50, 50, 20, 50, 20, -20, -50, -20], 1500),
        ([-1e9, 20, 1e9, 20, 1e9, 30, -1e9, 30], 1000),
        ([-30, -30, -1, -30, -1, -1, -30, -1], 0),
        ([500, 0, 1e9, 0, 500, 1e9], 0),
    ],
)
def test_the_area_of_a_clipped_polygon_is_the_one_inside_the_image(polygon, area):
    mask = rle.decode([rle.compressed_counts([polygon], (100, 100))], (100, 100))[0]
    # COCO counts a pixel whose centre is on a slanted edge: at most half of the edge's.
    assert abs(int(mask.sum()) - area) <= 50


@pytest.mark.parametrize("size", [[13, 9], [9], None, "9x13", [10**12, 10**12], [9, 13, 1], [[[]]]])
def test_an_rle_of_another_size_is_refused_before_it_is_drawn(size):
    for counts in ("0", [117]):
        with pytest.raises(rle.MaskSizeError, match="the image has"):
            rle.compressed_counts({"size": size, "counts": counts}, SIZE)


@pytest.mark.parametrize(
    "form",
    [
        {"size": list(SIZE)},
        *({"size": list(SIZE), "counts": counts} for counts in ([-1, 118], [116.5, 0.5], 117)),
        *([[1, 2, 3, 4, *more]] for more in ((), (5,))),
        *([[1, 2, 3, 4, 5, value]] for value in (float("nan"), float("inf"), 1e10, 10**400, "6")),
        [BOX, {"size": list(SIZE), "counts": "0"}],
        *([1, 2, 3, 4, 5, 6], "polygon", 7),
    ],
)
def test_anything_else_is_refused(form):
    with pytest.raises(ValueError, match=r"neither RLE nor polygons|lacks its outer brackets"):
        rle.compressed_counts(form, SIZE)


@pytest.mark.parametrize(
    "pixels",
    [np.arange(2_000_000).reshape(1000, 2000) > 1_700_000, np.arange(70_000).reshape(1, 70_000) == 69_999],
    ids=["long runs", "a last pixel far away"],
)
def test_masks_of_long_runs_are_summarised(pixels):
    assert summarise_rle(*pixels.shape, human.rle(pixels)["counts"]) == plain(pixels)


def test_a_mask_of_a_hundred_megapixels_is_summarised_from_its_runs():
    whole = human.rle(np.ones((10, 10)))["counts"]
    assert summarise_rle(10, 10, whole).area_px == 100
    # Source: maskApi.c's rleToString by hand: run 0, then 100,000,000 in five-bit chunks.
    digits, rest = [], 100_000_000
    while rest > 15:
        digits.append(chr(48 + (rest & 31) + 32))
        rest >>= 5
    digits.append(chr(48 + rest))
    assert summarise_rle(10_000, 10_000, "0" + "".join(digits)).area_px == 100_000_000


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ("", "cover 0 pixels, the image has 3 x 4"),
        ("5", "cover 5 pixels"),
        ("5555555", "cover"),
        ("5O", "negative length"),
        ("5\u00e9", "outside ASCII"),
        ("5~", "outside `0`"),
        ("5 ", "outside `0`"),
        ("5o", "end in the middle of a number"),
        ("o" * 12 + "0", "in 13 characters"),
        ("0" * 100, "take 100 characters"),
    ],
)
def test_a_damaged_encoding_is_told_and_never_trusted(counts, match):
    with pytest.raises(ValueError, match=match):
        summarise_rle(3, 4, counts)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_text_is_summarised_or_refused(counts):
    try:
        summary = summarise_rle(3, 4, counts)
    except ValueError:
        return
    assert 0 <= summary.area_px <= 12
