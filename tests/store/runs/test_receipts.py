"""Receipts are read and add up."""

from __future__ import annotations

import json

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.runs.header import sealed
from pseudoris.store.runs.receipts import (
    latest_receipts,
    list_receipts,
    read_receipt,
    read_receipts,
    receipt_path,
)
from tests.builders.seals import edit_sealed
from tests.store.builders import commit, start_run


def edit(location, **changes) -> None:
    edit_sealed(location, receipt_path(0, 0), lambda tree: tree.update(changes))


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


@pytest.mark.parametrize(("shard", "generation"), [(7, 0), (0, 1)])
def test_a_receipt_under_anothers_name_is_refused(location, shard, generation):
    commit(location, start_run(location), 0)
    edit(location, shard=shard, generation=generation)
    said = rf"shard-00000000\.g0\.json is the receipt of shard {shard}, generation {generation}: the file was copied"
    with pytest.raises(ConfigError, match=said):
        read_receipt(location, 0, 0)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b"[" * 100_000, b"9" * 5_000])
def test_a_file_that_is_no_receipt_is_refused(location, data):
    location.replace(receipt_path(0, 0), data)
    with pytest.raises(ConfigError, match="is not a receipt"):
        read_receipt(location, 0, 0)


def test_a_receipt_that_does_not_add_up_is_refused(location):
    commit(location, start_run(location), 0)
    counts = json.loads(location.read_bytes(receipt_path(0, 0)))["counts"]
    edit(location, counts={**counts, "annotated": 99})
    with pytest.raises(ConfigError, match="is not a valid receipt"):
        read_receipt(location, 0, 0)


def test_a_receipt_that_vanishes_while_it_is_read_is_told(location):
    with pytest.raises(ConfigError, match="was deleted while it was being read"):
        list(read_receipts(location, [(3, 0)]))
