from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pseudoris.primitives.run_lengths import RleSummary, summarise_rle
from tests.builders.human import rle

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def plain(pixels: np.ndarray) -> RleSummary:
    """The definition, on the pixels themselves."""
    rows, columns = np.nonzero(pixels)
    if not rows.size:
        return RleSummary(0, (0, 0, 0, 0))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return RleSummary(rows.size, tuple(int(side) for side in box))


@settings(deadline=None, max_examples=200)
@given(shapes.flatmap(lambda shape: arrays(bool, shape)))
def test_area_and_box_are_those_of_the_pixels(pixels):
    assert summarise_rle(*pixels.shape, rle(pixels)["counts"]) == plain(pixels)


@pytest.mark.parametrize(
    "pixels",
    [np.arange(2_000_000).reshape(1000, 2000) > 1_700_000, np.arange(70_000).reshape(1, 70_000) == 69_999],
    ids=["long runs", "a last pixel far away"],
)
def test_masks_of_long_runs_are_summarised(pixels):
    assert summarise_rle(*pixels.shape, rle(pixels)["counts"]) == plain(pixels)


def test_a_mask_of_a_hundred_megapixels_is_summarised_from_its_runs():
    whole = rle(np.ones((10, 10)))["counts"]
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
