"""The commit of a shard, and of a retry of its quarantined images."""

from __future__ import annotations

import logging
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.tables import FAILURES, IMAGES, SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.commit import NOWHERE, Provenance, commit_retry, commit_shard, quarantined_ids
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import list_receipts, part_path, read_receipt
from pseudoris.store.tables.open_run import OpenRun
from tests.store.builders import (
    annotated,
    commit,
    commit_made,
    empty,
    make_entries,
    make_shard,
    parts,
    quarantined,
    start_run,
)

ENTRIES = make_entries(num_shards=1, per_shard=8)
IDS = [entry.image_id for entry in ENTRIES]


def other_shard():
    """The same images with other content: as a run on another kind of device may give."""
    shard = make_shard(ENTRIES)
    first = shard.images[0]
    changed = tuple(replace(each, text=f"{each.text} there") for each in first.expressions)
    return shard.with_images((replace(first, expressions=changed), *shard.images[1:]))


def committed(location, shard=None, **options):
    shard = make_shard(ENTRIES) if shard is None else shard
    return commit_shard(location, shard, **{"planned_ids": IDS, "embed_images": True, **options})


def test_the_receipt_names_every_part_with_its_rows_size_and_digest(location):
    outcome = committed(location, provenance=Provenance({"fused": 3}))
    receipt = read_receipt(location, 0, 0)
    assert receipt == outcome
    assert (receipt.attempts, receipt.nodes) == ({"fused": 3}, ("node-a",))
    assert receipt.seconds == {"propose": 1.5, "caption": 2.0}
    for table, part in receipt.parts.items():
        data = location.read_bytes(part_path(table, part))
        assert part.name == f"shard-00000000.g0-{sha256_hex(data)[:8]}.parquet"
        assert (part.size_bytes, part.sha256) == (len(data), sha256_hex(data))
        with location.open_input(part_path(table, part)) as file:
            assert pq.ParquetFile(file).metadata.num_rows == part.rows


def test_a_receipt_is_created_after_all_of_its_parts(location, monkeypatch):
    create, standing = RunLocation.create_once, []

    def watched(self, path, data):
        standing.append((path, [path.partition("/")[2][:17] for path in parts(location)]))
        return create(self, path, data)

    monkeypatch.setattr(RunLocation, "create_once", watched)
    committed(location)
    assert standing == [("_receipts/shard-00000000.g0.json", ["shard-00000000.g0"] * 4)]


def test_a_repeated_commit_wins_again_and_writes_nothing(location):
    first = committed(location)
    before = parts(location)
    assert committed(location, provenance=Provenance({"fused": 2})) == first
    assert parts(location) == before


def test_a_late_writer_loses_and_writes_no_parts(location, caplog, monkeypatch):
    first = committed(location)
    before = parts(location)
    monkeypatch.setattr(RunLocation, "put_part", lambda *_: pytest.fail("a part was written"))
    with caplog.at_level(logging.WARNING):
        late = committed(location, other_shard())
    assert late == first
    assert parts(location) == before
    assert "other bytes in expressions" in caplog.text


def test_a_writer_overtaken_between_its_parts_and_its_receipt_loses(location, monkeypatch):
    create, winners = RunLocation.create_once, []

    def overtake(self, path, data):
        # The real one is back in place first, so that the other writer's own creation is not overtaken.
        monkeypatch.setattr(RunLocation, "create_once", create)
        winners.append(committed(location))
        return create(self, path, data)

    monkeypatch.setattr(RunLocation, "create_once", overtake)
    late = committed(location, other_shard())
    assert late == winners[0] == read_receipt(location, 0, 0)
    assert set(parts(location)) == {part_path(*each) for each in late.parts.items()}


def test_a_refusal_of_ones_own_receipt_is_a_win(location, monkeypatch, caplog):
    create = RunLocation.create_once

    def answer_lost(self, path, data):
        create(self, path, data)
        return False

    monkeypatch.setattr(RunLocation, "create_once", answer_lost)
    won = committed(location)
    assert set(parts(location)) == {part_path(*each) for each in won.parts.items()}
    assert "Another writer" not in caplog.text


@pytest.mark.parametrize(
    ("ids", "detail"),
    [
        (IDS[:-1], "not planned"),
        ([*IDS, "f" * 16], "missing \\['f{16}'\\]"),
        (IDS[::-1], "another order"),
        ([*IDS, IDS[0]], "a repeated id"),
        ([], "the plan 0"),
    ],
)
def test_a_block_that_is_not_exactly_the_plans_shard_is_refused(location, ids, detail):
    with pytest.raises(ValueError, match=detail):
        committed(location, planned_ids=ids)
    assert parts(location) == {}
    assert list_receipts(location) == {}


def test_a_refusal_without_a_receipt_is_tried_again(location, monkeypatch):
    monkeypatch.setattr(RunLocation, "create_once", lambda self, path, data: False)
    with pytest.raises(TransientError, match="exists already, but cannot be read back"):
        committed(location)


NUM_IMAGES = 9


@pytest.fixture
def run(disk):
    """Return the location, the plan of its one shard, and the ids of the quarantined images (at 3 and 7)."""
    header = start_run(disk, make_entries(num_shards=1, per_shard=NUM_IMAGES))
    provenance = Provenance(attempts={"fused": 2}, degraded={"y": 2}, mixed=("versions.x: …",))
    commit(disk, header, 0, provenance=provenance)
    entries = read_shard_plan(disk, header, 0)
    return disk, entries, [entries[3], entries[7]]


def retry(run, kinds, generation=1, provenance=NOWHERE):
    location, _, failed = run
    images = tuple(kind(entry) for kind, entry in zip(kinds, failed, strict=False))
    shard = Shard(0, generation, images, {"propose": 1.0, "read": 0.5}, ("node-b",))
    return commit_made(location, require_header(location), shard, write=commit_retry, provenance=provenance)


def rows(location: RunLocation, table: str) -> list[dict]:
    return OpenRun.at(location).table(table).to_pylist()


def test_the_quarantined_images_are_known_by_reason(run):
    location, _, failed = run
    receipt = read_receipt(location, 0, 0)
    assert quarantined_ids(location, receipt) == {entry.image_id for entry in failed}
    assert quarantined_ids(location, receipt, frozenset({"missing"})) == set()


def test_the_other_images_rows_stay_as_they_were_and_the_retried_stand_in_plan_order(run):
    location, entries, failed = run
    before = {table: rows(location, table) for table in SCHEMAS}
    outcome = retry(run, [annotated, empty])
    assert (outcome.generation, list_receipts(location)) == (1, {0: 1})
    retried = {entry.image_id for entry in failed}
    for table in SCHEMAS:
        others = [row for row in rows(location, table) if row["image_id"] not in retried]
        assert others == [row for row in before[table] if row["image_id"] not in retried]
    images = rows(location, IMAGES)
    assert [row["image_id"] for row in images] == [entry.image_id for entry in entries]
    assert [images[3]["status"], images[7]["status"]] == ["annotated", "empty"]
    assert rows(location, FAILURES) == []
    assert verify_run(location).is_clean


def test_a_retry_gives_the_bytes_of_a_shard_that_never_failed(run):
    location, entries, _ = run
    kinds = [annotated, lambda entry: annotated(entry, 1), empty, annotated]
    whole = Shard(0, 1, tuple(kinds[n % 4](entry) for n, entry in enumerate(entries)))
    elsewhere = RunLocation.open(f"memory://undisturbed-{id(location)}")
    ids = [entry.image_id for entry in entries]
    undisturbed = commit_shard(elsewhere, whole, planned_ids=ids, embed_images=True)
    receipt = retry(run, [annotated, annotated])
    assert receipt.parts == undisturbed.parts
    assert receipt.counts == undisturbed.counts


def test_a_retry_that_fails_in_the_same_way_commits_nothing(run):
    location, _, _ = run
    outcome = retry(run, [quarantined, quarantined])
    assert outcome.generation == 0
    assert list_receipts(location) == {0: 0}
    assert len(list(location.list("masks"))) == 1


def test_some_of_the_quarantined_images_can_be_retried_and_the_rest_later(run):
    location, entries, failed = run
    retry(run, [annotated])
    assert quarantined_ids(location, read_receipt(location, 0, 1)) == {failed[1].image_id}
    receipt = retry((location, entries, failed[1:]), [annotated], generation=2)
    assert (receipt.generation, receipt.counts.quarantined) == (2, 0)
    run_gc(location)
    assert verify_run(location).is_clean


def test_the_receipt_carries_what_both_generations_took(run):
    provenance = Provenance(attempts={"fused": 3}, degraded={"x": 1}, mixed=("device_kind: …", "versions.x: …"))
    receipt = retry(run, [annotated, annotated], provenance=provenance)
    assert receipt.seconds == {"propose": 2.5, "caption": 2.0, "read": 0.5}
    assert receipt.nodes == ("node-a", "node-b")
    assert (receipt.attempts, receipt.num_repeats) == ({"fused": 4}, 3)
    assert receipt.mixed == ("versions.x: …", "device_kind: …")
    assert receipt.degraded == {"y": 2, "x": 1}


def test_a_late_writer_gets_the_generation_that_stands_even_when_its_base_was_collected(run):
    location = run[0]
    first = retry(run, [annotated, annotated])
    run_gc(location)
    late = retry(run, [empty, empty])
    assert late == first
    assert verify_run(location).is_clean


def test_a_retry_of_images_that_were_not_in_quarantine_is_refused(run):
    location, entries, _ = run
    with pytest.raises(ValueError, match="are not quarantined, so they cannot be retried"):
        retry((location, entries, entries[:1]), [annotated])
    assert list_receipts(location) == {0: 0}


def test_a_generation_without_the_one_before_it_is_refused(run):
    with pytest.raises(ConfigError, match="no receipt of generation 1: it was deleted"):
        retry(run, [annotated, annotated], generation=2)


def test_a_writer_that_wakes_up_after_a_retry_and_its_collection_leaves_no_part_behind(location, monkeypatch):
    header = start_run(location, make_entries(num_shards=1, per_shard=NUM_IMAGES))
    entries = read_shard_plan(location, header, 0)
    put_part = RunLocation.put_part

    def others_come_first(self, path, data):
        # The writer has looked and found no receipt; now everything happens that can happen before its first byte.
        monkeypatch.setattr(RunLocation, "put_part", put_part)
        commit(location, header, 0)
        retry((location, entries, [entries[3], entries[7]]), [annotated, empty])
        run_gc(location)
        put_part(self, path, data)

    monkeypatch.setattr(RunLocation, "put_part", others_come_first)
    commit(location, header, 0)
    assert list_receipts(location) == {0: 1}
    for table in SCHEMAS:
        assert [file.name.partition("-")[2][8:12] for file in location.list(table)] == [".g1-"]
    assert verify_run(location).is_clean


def test_a_writer_whose_parts_were_collected_before_its_receipt_says_what_is_missing(location, monkeypatch, caplog):
    create = RunLocation.create_once

    def collected(self, path, data):
        monkeypatch.setattr(RunLocation, "create_once", create)
        for part in parts(location):
            location.delete(part)
        return create(self, path, data)

    monkeypatch.setattr(RunLocation, "create_once", collected)
    receipt = committed(location)
    assert all(location.uri(part_path(*each)) in caplog.text for each in receipt.parts.items())
    assert "Run the same command with --repair" in caplog.text
