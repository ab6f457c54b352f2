"""Small holes and islands, held to a plain flood fill."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from workers.masks.regions import remove_small_regions


def regions_of(mask):
    """Eight-connected regions as sets of pixels, in reading order of their first pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for pixel in sorted(left):
        if pixel not in left:
            continue
        left.discard(pixel)
        region, stack = {pixel}, [pixel]
        while stack:
            y, x = stack.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            region |= around
            stack += around
        found.append(region)
    return found


def plain(mask, min_area_px):
    out = mask.copy()
    for hole in regions_of(~mask):
        if len(hole) < min_area_px:
            out[tuple(zip(*hole, strict=True))] = True
    islands = regions_of(out)
    large = [island for island in islands if len(island) >= min_area_px] or sorted(islands, key=len, reverse=True)[:1]
    result = np.zeros_like(mask)
    for island in large:
        result[tuple(zip(*island, strict=True))] = True
    return result


MASKS = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS, st.integers(1, 30))
def test_cleaning_equals_a_plain_flood_fill(mask, min_area_px):
    cleaned, has_changed = remove_small_regions(mask, min_area_px)
    np.testing.assert_array_equal(cleaned, plain(mask, min_area_px))
    if not has_changed:
        np.testing.assert_array_equal(cleaned, mask)


@given(MASKS, st.integers(1, 200))
def test_a_mask_with_pixels_keeps_some(mask, min_area_px):
    cleaned, _ = remove_small_regions(mask, min_area_px)
    assert cleaned.any() == (mask.any() or mask.size < min_area_px)


def test_a_hole_is_filled_and_an_island_dropped():
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:8, 1:8] = True
    mask[4, 4] = False
    mask[10, 10] = True
    expected = np.zeros_like(mask)
    expected[1:8, 1:8] = True
    cleaned, has_changed = remove_small_regions(mask, 3)
    assert has_changed
    np.testing.assert_array_equal(cleaned, expected)
    assert mask[10, 10], "the argument is left as it is"


@pytest.mark.parametrize(("area", "stays"), [(4, True), (5, False)])
def test_a_region_of_exactly_the_minimal_area_stays(area, stays):
    mask = np.zeros((20, 20), dtype=bool)
    mask[:8, :8] = True
    mask[15:17, 15:17] = True
    cleaned, _ = remove_small_regions(mask, area)
    assert cleaned[15, 15] == stays


def test_regions_touch_over_corners():
    mask = np.eye(6, dtype=bool)
    cleaned, has_changed = remove_small_regions(mask, 6)
    assert not has_changed
    np.testing.assert_array_equal(cleaned, mask)
