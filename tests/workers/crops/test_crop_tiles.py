"""Tiles of a crop cover it once, in batches below their bound; strips and unpacked masks equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.workers.crops.crop_tiles import (
    STRIP_PX,
    CropTile,
    TiledImage,
    Windows,
    segmented_arange,
    tile_batches,
    tile_bytes,
    unpack_columns,
)
from tests.builders.crops import runs_of
from tests.builders.images import random_pixels


def build_tile(crop=0, box=(0, 0, 50, 40), *, size=16):
    return CropTile(crop=crop, mask=crop, is_masked=False, box=box, rows=(0, size), columns=(0, size))


def test_crops_that_fit_come_together_and_in_order():
    tiles = [build_tile(crop) for crop in range(5)]
    each = tile_bytes(tiles[0], size=16)
    found = list(tile_batches(tiles, size=16, max_bytes=2 * each))
    assert [[tile.crop for tile in batch] for batch in found] == [[0, 1], [2, 3], [4]]


@given(
    boxes=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=3),
    max_bytes=st.sampled_from([1, 30_000, 10**6, 10**8]),
    size=st.sampled_from([1, 5, 16]),
)
def test_the_pieces_of_every_crop_are_all_of_its_outputs_once(boxes, max_bytes, size):
    tiles = [build_tile(crop, (0, 0, *box), size=size) for crop, box in enumerate(boxes)]
    computed = np.zeros((len(tiles), size, size), dtype=np.int64)
    for batch in tile_batches(tiles, size=size, max_bytes=max_bytes):
        for tile in batch:
            computed[tile.crop, slice(*tile.rows), slice(*tile.columns)] += 1
    assert (computed == 1).all()


@pytest.mark.parametrize("box", [(0, 0, 3, 2_000_000), (0, 0, 2_000_000, 3), (0, 0, 9000, 9000), (0, 0, 1, 1)])
def test_no_batch_takes_more_than_its_bound(box):
    for batch in tile_batches([build_tile(0, box, size=224)] * 3, size=224, max_bytes=64 * 2**20):
        assert sum(tile_bytes(tile, size=224) for tile in batch) <= 64 * 2**20


def test_a_single_output_is_not_divided_whatever_it_takes():
    pieces = [tile for batch in tile_batches([build_tile(size=2)], size=2, max_bytes=1) for tile in batch]
    assert {(tile.rows, tile.columns) for tile in pieces} == {
        ((y, y + 1), (x, x + 1)) for y in range(2) for x in range(2)
    }


def test_the_side_is_the_longer_edge():
    assert build_tile(box=(10, 10, 15, 40)).side == 30


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
    image = TiledImage(pixels, [runs_of(mask) for mask in masks], fill_rgb=FILL, device=torch.device("cpu"))
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
    image = TiledImage(random_pixels(4, width), [], fill_rgb=FILL, device=torch.device("cpu"))
    assert image.strip_px == strip_px


def test_places_count_from_zero_within_each_group():
    assert segmented_arange(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    shares=st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), max_size=5),
    seed=st.integers(0, 99),
)
def test_columns_are_those_of_the_masks_and_background_beyond_them(size, shares, seed):
    height, width = size
    generator = np.random.default_rng(seed)
    masks = [generator.random(size) < share for share in shares]
    columns = np.sort(generator.integers(0, width + 4, (len(masks), 2)), axis=1)
    got = unpack_columns([runs_of(mask) for mask in masks], columns, height=height, device=torch.device("cpu"))
    wider = [np.pad(mask, ((0, 0), (0, 4))) for mask in masks]
    parts = [mask[:, first:end] for mask, (first, end) in zip(wider, columns, strict=True)]
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    np.testing.assert_array_equal(got.numpy(), np.concatenate([np.zeros((height, 0)), *parts], axis=1))


def test_a_mask_of_more_runs_than_a_byte_counts_keeps_its_parity():
    mask = np.arange(1200).reshape(4, 300) % 2 == 0
    got = unpack_columns([runs_of(mask)] * 2, np.array([[0, 300], [7, 9]]), height=4, device=torch.device("cpu"))
    np.testing.assert_array_equal(got.numpy(), np.concatenate([mask, mask[:, 7:9]], axis=1))
