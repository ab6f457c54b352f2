"""A mask in every form that an export gives it: each holds exactly the pixels of the tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from pycocotools import mask as coco
from scipy.ndimage import gaussian_filter

from pseudoris.interchange.exports.record import ExportMask
from pseudoris.schemas.shard import MaskRecord
from pseudoris.workers.masks.polygons import centre_polygons, corner_polygon

cv2 = pytest.importorskip("cv2", reason="opencv fills the polygons of pixel centres")
ANY_MASK = np_st.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


def mask_of(pixels: np.ndarray) -> ExportMask:
    counts = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))["counts"].decode("ascii")
    return ExportMask(1, MaskRecord("m-0000", 0, pixels.shape, counts, (0, 0, 1, 1), int(pixels.sum())))


@given(ANY_MASK)
def test_pixels_runs_and_the_point_within_are_those_of_the_mask(pixels):
    mask = mask_of(pixels)
    assert np.array_equal(mask.pixels(), pixels)
    polygon, counts = mask.corner_polygon()
    assert np.array_equal(coco.decode(coco.merge(coco.frPyObjects([polygon], *pixels.shape))), pixels)
    assert counts == mask.record.rle_counts
    x, y = mask.point_within()
    assert pixels[int(y), int(x)]


def filled_by_pycocotools(pixels: np.ndarray) -> np.ndarray:
    polygon = [value for point in corner_polygon(pixels) for value in point]
    assert len(polygon) >= 8
    return coco.decode(coco.merge(coco.frPyObjects([polygon], *pixels.shape))).astype(bool)


def filled_by_opencv(pixels: np.ndarray) -> np.ndarray:
    """Fill as LISA's `get_mask_from_json` does (utils/data_processing.py, 3cb2d43): outline, then area."""
    drawn = np.zeros(pixels.shape, np.uint8)
    for polygon in centre_polygons(pixels):
        points = np.array([polygon], dtype=np.int32)
        cv2.polylines(drawn, points, True, 1, 1)
        cv2.fillPoly(drawn, points, 1)
    return drawn.astype(bool)


def filled_by_winding(pixels: np.ndarray) -> np.ndarray:
    """Fill the pixels whose centre the polygon goes round, more often one way than the other, as canvases do."""
    y, x = np.indices(pixels.shape) + 0.5
    winding = np.zeros(pixels.shape, int)
    polygon = corner_polygon(pixels)
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        is_left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        winding += ((y0 <= y) & (y < y1) & (is_left > 0)).astype(int) - ((y1 <= y) & (y < y0) & (is_left < 0))
    return winding != 0


FILLERS = [filled_by_pycocotools, filled_by_opencv, filled_by_winding]


@pytest.mark.parametrize("filled", FILLERS)
@given(pixels=ANY_MASK)
def test_polygons_fill_to_the_mask_with_its_holes_and_parts(filled, pixels):
    assert np.array_equal(filled(pixels), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("filled", FILLERS)
@pytest.mark.parametrize("num_masks", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_masks_with_holes_and_parts_are_filled_exactly(filled, num_masks):
    draw = np.random.default_rng(47)
    for number in range(num_masks):
        noise = draw.random(draw.integers(1, 40, 2))
        if number % 3:
            noise = gaussian_filter(noise, draw.uniform(0.3, 2))
        pixels = noise >= np.quantile(noise, draw.uniform(0.05, 0.95))
        assert np.array_equal(filled(pixels), pixels), f"mask {number}"
