from __future__ import annotations

import logging
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.receipts import list_receipts, part_path, read_receipt
from tests.store.builders import make_entries, make_shard, parts

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
