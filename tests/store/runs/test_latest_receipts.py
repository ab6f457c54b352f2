from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.runs import manifest
from pseudoris.store.runs.manifest import LatestReceipts, write_manifest
from pseudoris.store.runs.receipts import receipt_path
from tests.store.builders import commit, make_entries, start_run


@pytest.fixture
def run(location):
    """Return the location, its header, and what stands: shards 1, 3, 4 and 7 of nine, 3 in its second generation."""
    header = start_run(location, make_entries(num_shards=9, per_shard=2))
    receipts = commit(location, header, 1, 3, 4, 7)
    receipts[1] = commit(location, header, 3, generation=1)[0]
    return location, header, receipts


@pytest.mark.parametrize("has_manifest", [False, True])
def test_every_pass_gives_all_that_stood_when_they_were_listed(run, has_manifest):
    location, header, receipts = run
    if has_manifest:
        write_manifest(location)
    found = LatestReceipts.listed(location)
    assert list(found) == receipts
    commit(location, header, 0)
    commit(location, header, 7, generation=1)
    if has_manifest:
        write_manifest(location)
    assert list(found) == receipts
    assert len(found) == 4
    assert [each.generation for each in LatestReceipts.listed(location)] == [0, 0, 1, 0, 1]


def test_one_is_found_by_its_place_and_by_its_shard(run):
    location, _, receipts = run
    found = LatestReceipts.listed(location)
    assert [found[place] for place in range(-4, 4)] == receipts + receipts
    assert [found.of_shard(shard) for shard in (1, 3, 4, 7)] == receipts
    for shard in (-1, 0, 2, 8):
        with pytest.raises(KeyError, match=str(shard)):
            found.of_shard(shard)
    with pytest.raises(IndexError):
        found[4]


def test_where_a_manifest_has_them_no_receipt_is_read(run, monkeypatch):
    location, _, receipts = run
    write_manifest(location)
    monkeypatch.setattr(manifest, "read_receipts", lambda *_: pytest.fail("a receipt was read"))
    assert list(LatestReceipts.listed(location)) == receipts


def test_one_that_is_deleted_meanwhile_is_told(run):
    location, _, _ = run
    found = LatestReceipts.listed(location)
    location.delete(receipt_path(4, 0))
    with pytest.raises(ConfigError, match=r"shard-00000004\.g0\.json was deleted"):
        list(found)


@pytest.mark.parametrize("part", [slice(None), slice(-1, None)], ids=["all", "the last"])
def test_a_pass_over_many_holds_a_few(disk, monkeypatch, part):
    monkeypatch.setattr(manifest, "_ROWS_AT_ONCE", 50)
    num_shards = 1_500
    receipt = commit(disk, start_run(disk), 0)[0]
    write_manifest(disk, (receipt.model_copy(update={"shard": shard}) for shard in range(num_shards)))
    shards = np.arange(num_shards)
    found = LatestReceipts(disk, shards, np.zeros_like(shards, np.int32))[part]
    tracemalloc.start()
    try:
        assert sum(1 for _ in found) == len(shards[part])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All of them together take 9 MB.
    assert peak < 2 * 2**20
