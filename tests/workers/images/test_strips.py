"""The table of strips, against slices of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.builders.crops import runs_of
from tests.builders.images import random_pixels
from workers.images.strips import STRIP_PX, ImageStrips, Windows, place_within

FILL = (123, 117, 104)


def spans(*pairs):
    return np.array(pairs, dtype=np.int64)


def expected_rows(pixels, rows, strips, *, strip_px, mask=None):
    """The rows of one window, strip after strip, from the definition."""
    padded = np.zeros((pixels.shape[0], 4 * STRIP_PX + pixels.shape[1], 3), np.float32)
    padded[:, : pixels.shape[1]] = pixels
    deviation = padded - np.array(FILL, np.float32)
    if mask is not None:
        kept = np.zeros(padded.shape[:2], bool)
        kept[:, : mask.shape[1]] = mask
        deviation = deviation * kept[:, :, None]
    parts = [
        deviation[rows[0] : rows[1], strip * strip_px : (strip + 1) * strip_px].reshape(rows[1] - rows[0], -1)
        for strip in range(*strips)
    ]
    return np.concatenate(parts)


def test_a_table_holds_the_windows_one_after_another_and_masks_the_last():
    pixels = random_pixels(20, 70)
    masks = np.random.default_rng(0).random((2, 20, 70)) < 0.5
    image = ImageStrips(pixels, [runs_of(mask) for mask in masks], fill_rgb=FILL, device=torch.device("cpu"))
    windows = Windows(spans((3, 9), (0, 20), (11, 12)), spans((1, 3), (0, 2), (2, 3)), np.array([1, 0]))
    expected = [
        expected_rows(pixels, (3, 9), (1, 3), strip_px=STRIP_PX),
        expected_rows(pixels, (0, 20), (0, 2), strip_px=STRIP_PX, mask=masks[1]),
        expected_rows(pixels, (11, 12), (2, 3), strip_px=STRIP_PX, mask=masks[0]),
    ]
    table = image.table(windows).numpy()
    assert windows.starts.tolist() == [0, 12, 52]
    # What is masked out may come as minus zero.
    np.testing.assert_array_equal(table + 0.0, np.concatenate(expected) + 0.0)


@pytest.mark.parametrize(("width", "strip_px"), [(1, 1), (31, 31), (32, 32), (200, 32)])
def test_strips_are_never_wider_than_the_image(width, strip_px):
    image = ImageStrips(random_pixels(4, width), [], fill_rgb=FILL, device=torch.device("cpu"))
    assert image.strip_px == strip_px


def test_places_count_from_zero_within_each_group():
    assert place_within(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
