"""Tiles of a crop cover it once, in batches below their bound; strips and unpacked masks equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pseudoris.workers.crops.crop_tiles import (
    CropTile,
    tile_batches,
    tile_bytes,
    unpack_columns,
)
from tests.builders.crops import runs_of


def build_tile(crop=0, box=(0, 0, 50, 40), *, size=16):
    return CropTile(crop=crop, mask=crop, is_masked=False, box=box, rows=(0, size), columns=(0, size))


@pytest.mark.parametrize("box", [(0, 0, 3, 2_000_000), (0, 0, 2_000_000, 3), (0, 0, 9000, 9000), (0, 0, 1, 1)])
def test_no_batch_takes_more_than_its_bound(box):
    for batch in tile_batches([build_tile(0, box, size=224)] * 3, size=224, max_bytes=64 * 2**20):
        assert sum(tile_bytes(tile, size=224) for tile in batch) <= 64 * 2**20


def test_a_mask_of_more_runs_than_a_byte_counts_keeps_its_parity():
    mask = np.arange(1200).reshape(4, 300) % 2 == 0
    got = unpack_columns([runs_of(mask)] * 2, np.array([[0, 300], [7, 9]]), height=4, device=torch.device("cpu"))
    np.testing.assert_array_equal(got.numpy(), np.concatenate([mask, mask[:, 7:9]], axis=1))
