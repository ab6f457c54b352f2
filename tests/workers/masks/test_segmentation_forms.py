"""COCO's forms of a segmentation, each against pycocotools' own reading, and what none of them is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from pseudoris.workers.masks.rle import MaskSizeError, compressed_counts
from tests.builders.crops import runs_of

SIZE = (9, 13)
BOX = [2, 1, 7, 1, 7, 5, 2, 5]


def decoded(counts: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    return coco.decode({"size": list(size), "counts": counts.encode()}).astype(bool)


@given(mask=arrays.arrays(bool, SIZE))
def test_every_form_of_rle_gives_the_mask(mask):
    whole = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    rles = [{"size": list(SIZE), "counts": counts} for counts in (whole, whole.decode(), runs_of(mask).tolist())]
    for form in (*rles, *([rle] for rle in rles)):
        np.testing.assert_array_equal(decoded(compressed_counts(form, SIZE)), mask)


def test_overlapping_polygons_are_one_mask_of_ones():
    mask = decoded(compressed_counts([BOX, [5, 3, 11, 3, 11, 8, 5, 8]], SIZE))
    expected = np.zeros(SIZE, bool)
    expected[1:5, 2:7] = expected[3:8, 5:11] = True
    np.testing.assert_array_equal(mask, expected)


@given(st.lists(st.tuples(*[st.floats(-40, 60) | st.floats(-1e9, 1e9)] * 2), min_size=3, max_size=8))
def test_a_polygon_that_leaves_the_image_is_clipped_and_keeps_its_shape(points):
    mask = decoded(compressed_counts([[value for point in points for value in point]], SIZE))
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
    mask = decoded(compressed_counts([polygon], (100, 100)), (100, 100))
    # COCO counts a pixel whose centre is on a slanted edge: at most half of the edge's.
    assert abs(int(mask.sum()) - area) <= 50


@pytest.mark.parametrize("size", [[13, 9], [9], None, "9x13", [10**12, 10**12], [9, 13, 1], [[[]]]])
def test_an_rle_of_another_size_is_refused_before_it_is_drawn(size):
    for counts in ("0", [117]):
        with pytest.raises(MaskSizeError, match="the image has"):
            compressed_counts({"size": size, "counts": counts}, SIZE)


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
    with pytest.raises(ValueError, match="neither RLE nor polygons"):
        compressed_counts(form, SIZE)
