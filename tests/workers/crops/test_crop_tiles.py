"""Tiles of a crop cover it once, in batches below their bound."""

from __future__ import annotations

import pytest

from pseudoris.workers.crops.crop_tiles import (
    CropTile,
    tile_batches,
    tile_bytes,
)


def build_tile(crop=0, box=(0, 0, 50, 40), *, size=16):
    return CropTile(crop=crop, mask=crop, is_masked=False, box=box, rows=(0, size), columns=(0, size))


@pytest.mark.parametrize("box", [(0, 0, 3, 2_000_000), (0, 0, 2_000_000, 3), (0, 0, 9000, 9000), (0, 0, 1, 1)])
def test_no_batch_takes_more_than_its_bound(box):
    for batch in tile_batches([build_tile(0, box, size=224)] * 3, size=224, max_bytes=64 * 2**20):
        assert sum(tile_bytes(tile, size=224) for tile in batch) <= 64 * 2**20
