from __future__ import annotations

import logging

import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.runs import manifest as manifest_module
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.manifest import (
    cached_receipts,
    iter_manifest,
    read_manifest,
    write_manifest,
)
from pseudoris.store.runs.receipts import latest_receipts, receipt_path
from tests.store.builders import commit, start_run


@pytest.fixture
def run(location):
    header = start_run(location)
    return location, header, commit(location, header, 0, 2)


def test_snapshots_are_numbered_and_the_latest_counts(run):
    location, header, receipts = run
    write_manifest(location)
    more = commit(location, header, 1)
    assert write_manifest(location) == "_manifest/0002.parquet"
    assert list(iter_manifest(location)) == [receipts[0], *more, receipts[1]]


def test_a_number_that_another_writer_took_is_passed_over(run, monkeypatch):
    location, _, _ = run
    location.replace("_manifest/0001.parquet", b"another writer's")
    monkeypatch.setattr(manifest_module, "latest_snapshot", lambda location: None)
    assert write_manifest(location) == "_manifest/0002.parquet"
    assert location.read_bytes("_manifest/0001.parquet") == b"another writer's"


def test_receipts_that_the_snapshot_has_are_not_read_again(run, monkeypatch):
    location, header, _ = run
    write_manifest(location)
    commit(location, header, 1)
    read = []
    original = manifest_module.read_receipts
    monkeypatch.setattr(
        manifest_module, "read_receipts", lambda place, commits: (read.extend(commits), original(place, commits))[1]
    )
    assert [receipt.shard for receipt in cached_receipts(location)] == [0, 1, 2]
    assert read == [(1, 0)]


def test_a_receipt_that_was_written_again_is_read_anew(run):
    location, header, receipts = run
    write_manifest(location)
    location.delete(receipt_path(0, 0))
    (again,) = commit(location, header, 0, provenance=Provenance({"fused": 2}))
    assert again != receipts[0]
    assert list(cached_receipts(location, anew={0})) == [again, receipts[1]]


@pytest.mark.parametrize("data", [b"", b"damaged", None])
def test_a_snapshot_that_does_not_read_is_passed_over_with_a_warning(run, data, caplog):
    location, _, receipts = run
    write_manifest(location)
    if data is None:
        data = location.read_bytes("_manifest/0001.parquet")[:-40]
    location.replace("_manifest/0001.parquet", data)
    with caplog.at_level(logging.WARNING):
        assert list(cached_receipts(location)) == receipts
    assert "Cannot use the manifest" in caplog.text


def test_a_snapshot_may_be_made_of_the_one_before_and_of_what_it_lacks(run):
    location, header, _ = run
    write_manifest(location)
    commit(location, header, 1)
    write_manifest(location, cached_receipts(location))
    assert list(iter_manifest(location)) == list(latest_receipts(location))
    assert len(list(iter_manifest(location))) == 3


def test_a_snapshot_damaged_in_its_midst_gives_what_came_before_and_receipts_the_rest(run, monkeypatch, caplog):
    def damaged_after_one(location):
        yield receipts[0]
        raise OSError("a page's checksum")

    location, _, receipts = run
    monkeypatch.setattr(manifest_module, "_snapshot", damaged_after_one)
    with caplog.at_level(logging.WARNING):
        assert list(cached_receipts(location)) == receipts
    assert "Cannot use the manifest" in caplog.text
    assert list(iter_manifest(location)) == receipts[:1]


@pytest.mark.parametrize("name", [b"generation", b"masks_part_name", b"reasons"])
def test_a_snapshot_without_one_of_its_columns_is_passed_over(run, name, caplog):
    location, _, receipts = run
    path = write_manifest(location)
    location.replace(path, location.read_bytes(path).replace(name, name[::-1]))
    assert list(cached_receipts(location)) == receipts
    assert "Cannot use the manifest" in caplog.text


def test_a_snapshot_that_does_not_stand_or_read_is_named(run):
    location, _, _ = run
    path = write_manifest(location)
    with pytest.raises(ConfigError, match=r"0999.parquet does not exist: the run has the snapshots \[1\]"):
        read_manifest(location, 999)
    location.replace(path, b"PAR1 no more PAR1")
    with pytest.raises(TransientError, match="cannot be read as Parquet"):
        read_manifest(location, 1)
