"""Header, extensions, receipts and manifests of a run: which stands, and what is refused."""

from __future__ import annotations

import logging

import pytest

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME, RECORDS_VERSION
from pseudoris.store.runs import manifest as manifest_module
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.header import create_header, extension_path, read_header, sealed
from pseudoris.store.runs.manifest import (
    MANIFEST_SCHEMA,
    LatestReceipts,
    cached_receipts,
    iter_manifest,
    read_manifest,
    read_snapshot,
    write_manifest,
)
from pseudoris.store.runs.plan import iter_plan, read_shard_plan
from pseudoris.store.runs.receipts import latest_receipts, list_receipts, read_receipt, read_receipts, receipt_path
from tests.builders.memory import traced_peak
from tests.builders.seals import edit_sealed, sealed_json
from tests.store.builders import commit, extend_run, make_entries, start_run


def test_the_first_header_stands(location):
    first = start_run(location)
    late = first.model_copy(update={"source": "elsewhere/"})
    assert create_header(location, late) == first
    assert read_header(location) == first


def test_a_header_with_strange_fields_is_refused_with_their_names(location):
    start_run(location)
    edit_sealed(location, HEADER_NAME, lambda tree: tree.update(num_shards=-1, extra=1))
    with pytest.raises(ConfigError, match=r"is not a valid header, see extra, num_shards: .*name another output"):
        read_header(location)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[1]", b"{}", b"null", b"[" * 100_000, b"9" * 5_000])
def test_a_file_that_is_no_header_or_no_receipt_is_refused(location, data):
    location.replace(HEADER_NAME, data)
    with pytest.raises(ConfigError, match="is not the header of a run"):
        read_header(location)
    location.replace(receipt_path(0, 0), data)
    with pytest.raises(ConfigError, match="is not a receipt"):
        read_receipt(location, 0, 0)


def extended(location):
    """Return the header of a run of three shards that was extended by two, twice."""
    header = start_run(location)
    for number in (2, 3):
        entries = make_entries(num_shards=2, first_shard=2 * number - 1)
        header = extend_run(location, header, entries, number=number, num_repeated=1)
    return header


def test_readers_see_one_plan_with_all_extensions_in_it(location):
    header = extended(location)
    assert header == read_header(location) == create_header(location, header)
    assert (header.num_images, header.num_shards, header.num_repeated) == (28, 7, 2)
    assert [shard for shard, _ in iter_plan(location, header)] == list(range(7))
    assert [entry.key for entry in read_shard_plan(location, header, 6)] == [f"s6/{n}.png" for n in range(4)]


def test_what_a_sample_of_0_5_warned_of_stays_where_a_later_one_warned_of_nothing(location):
    header = start_run(location, domain={"num_sampled": 16, "num_outside": 15})
    extend_run(location, header, make_entries(num_shards=1, first_shard=header.num_shards))
    edit_sealed(location, extension_path(2), lambda tree: tree.update(domain={"num_sampled": 9, "num_outside": 0}))
    assert read_header(location).warning.startswith("15 of 16 sampled images are unlike all that")


def test_a_lost_extension_is_told(location):
    extended(location)
    location.delete(extension_path(2))
    with pytest.raises(ConfigError, match=r"holds the extensions \[3\] of the plan"):
        read_header(location)


def test_an_extension_that_was_edited_is_refused_by_its_name(location):
    start_run(location)
    location.replace(extension_path(2), sealed_json({"version": RECORDS_VERSION, "number": 2}))
    with pytest.raises(ConfigError, match=r"g0002\.json is not a valid header, see created_utc"):
        read_header(location)


def test_names_alone_tell_the_highest_generation_of_each_shard(location):
    header = start_run(location)
    commit(location, header, 2, 0)
    commit(location, header, 2, generation=1)
    location.replace("_receipts/notes.txt", b"not ours")
    assert list_receipts(location) == {0: 0, 2: 1}
    assert list(list_receipts(location)) == [0, 2]


def test_more_receipts_than_a_batch_come_in_order(disk):
    header = start_run(disk)
    receipt = commit(disk, header, 0)[0]
    for shard in range(1, 600):
        disk.replace(receipt_path(shard, 0), sealed(receipt.model_copy(update={"shard": shard}))[1])
    assert [receipt.shard for receipt in latest_receipts(disk)] == list(range(600))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda tree: tree.update(shard=7),
            r"0\.g0\.json is the receipt of shard 7, generation 0: the file was copied",
        ),
        (lambda tree: tree.update(generation=1), r"is the receipt of shard 0, generation 1: the file was copied"),
        (lambda tree: tree["counts"].update(annotated=99), "is not a valid receipt"),
    ],
)
def test_a_receipt_under_anothers_name_or_that_does_not_add_up_is_refused(location, edit, said):
    commit(location, start_run(location), 0)
    edit_sealed(location, receipt_path(0, 0), edit)
    with pytest.raises(ConfigError, match=said):
        read_receipt(location, 0, 0)


def test_a_receipt_that_vanishes_while_it_is_read_is_told(location):
    with pytest.raises(ConfigError, match="was deleted while it was being read"):
        list(read_receipts(location, [(3, 0)]))


@pytest.fixture
def run(location):
    header = start_run(location)
    return location, header, commit(location, header, 0, 2)


def test_a_number_that_another_writer_took_is_passed_over(run, monkeypatch):
    location, _, _ = run
    location.replace("_manifest/0001.parquet", b"another writer's")
    monkeypatch.setattr(manifest_module, "latest_snapshot", lambda location: None)
    assert write_manifest(location) == "_manifest/0002.parquet"
    assert location.read_bytes("_manifest/0001.parquet") == b"another writer's"


def test_a_receipt_that_was_written_again_is_read_anew(run):
    location, header, receipts = run
    write_manifest(location)
    location.delete(receipt_path(0, 0))
    (again,) = commit(location, header, 0, provenance=Provenance({"fused": 2}))
    assert again != receipts[0]
    assert list(cached_receipts(location, anew={0})) == [again, receipts[1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"damaged",
        lambda data: data[:-40],
        *(
            lambda data, name=name: data.replace(name, name[::-1])
            for name in (b"generation", b"masks_part_name", b"reasons")
        ),
    ],
)
def test_a_snapshot_that_does_not_read_or_lacks_a_column_is_passed_over_with_a_warning(run, damage, caplog):
    location, _, receipts = run
    path = write_manifest(location)
    location.replace(path, damage(location.read_bytes(path)))
    with caplog.at_level(logging.WARNING):
        assert list(cached_receipts(location)) == receipts
    assert "Cannot use the manifest" in caplog.text


def test_an_intact_snapshot_of_another_version_is_refused_by_it_and_passed_over(run, monkeypatch, caplog):
    location, _, receipts = run
    later = MANIFEST_SCHEMA.with_metadata({b"pseudoris.manifest_version": b"5"})
    monkeypatch.setattr(manifest_module, "MANIFEST_SCHEMA", later)
    write_manifest(location)
    for read in (lambda: read_manifest(location, 1), lambda: list(read_snapshot(location, 1))):
        with pytest.raises(ConfigError, match=r"0001\.parquet is of version 5, .* version 4 alone: use the pseudoris"):
            read()
    assert list(cached_receipts(location)) == receipts
    assert "is of version 5" in caplog.text


def test_a_snapshot_damaged_in_its_midst_gives_what_came_before_and_receipts_the_rest(run, monkeypatch, caplog):
    def damaged_after_one(location, number):
        yield receipts[0]
        raise OSError("a page's checksum")

    location, _, receipts = run
    write_manifest(location)
    monkeypatch.setattr(manifest_module, "read_snapshot", damaged_after_one)
    with caplog.at_level(logging.WARNING):
        assert list(cached_receipts(location)) == receipts
    assert "Cannot use the manifest" in caplog.text
    assert list(iter_manifest(location)) == receipts[:1]


@pytest.fixture
def nine(location):
    """Return the location, its header, and what stands: shards 1, 3, 4 and 7 of nine, 3 in its second generation."""
    header = start_run(location, make_entries(num_shards=9, per_shard=2))
    receipts = commit(location, header, 1, 3, 4, 7)
    receipts[1] = commit(location, header, 3, generation=1)[0]
    return location, header, receipts


@pytest.mark.parametrize("has_manifest", [False, True])
def test_every_pass_gives_all_that_stood_when_they_were_listed(nine, has_manifest):
    location, header, receipts = nine
    if has_manifest:
        write_manifest(location)
    found = LatestReceipts(location, list_receipts(location))
    assert list(found) == receipts
    commit(location, header, 0)
    commit(location, header, 7, generation=1)
    if has_manifest:
        write_manifest(location)
    assert list(found) == receipts
    assert len(found) == 4
    assert [each.generation for each in LatestReceipts(location, list_receipts(location))] == [0, 0, 1, 0, 1]


def test_one_is_found_by_its_place(nine):
    location, _, receipts = nine
    found = LatestReceipts(location, list_receipts(location))
    assert [found[place] for place in range(-4, 4)] == receipts + receipts
    with pytest.raises(IndexError):
        found[4]


def test_a_pass_over_many_holds_a_few(disk, monkeypatch):
    monkeypatch.setattr(manifest_module, "ROWS_AT_ONCE", 50)
    num_shards = 1_500
    receipt = commit(disk, start_run(disk), 0)[0]
    write_manifest(disk, (receipt.model_copy(update={"shard": shard}) for shard in range(num_shards)))
    found = LatestReceipts(disk, dict.fromkeys(range(num_shards), 0))
    with traced_peak() as peak_bytes:
        assert sum(1 for _ in found) == num_shards
        # All of them together take 9 MB.
        assert peak_bytes() < 2 * 2**20
