"""Tiles of a crop cover it once, in batches below their bound; strips and unpacked masks equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.workers.crops.crop_tiles import (
    CropTile,
    tile_batches,
    tile_bytes,
    unpack_columns,
)
from tests.builders.crops import runs_of


def build_tile(crop=0, box=(0, 0, 50, 40), *, size=16):
    return CropTile(crop=crop, mask=crop, is_masked=False, box=box, rows=(0, size), columns=(0, size))


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
