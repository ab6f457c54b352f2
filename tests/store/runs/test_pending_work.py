"""What is left to do of a run."""

from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.runs.pending_work import PendingWork, missing_shards, parse_reasons, quarantined_shards
from pseudoris.store.runs.receipts import latest_receipts
from tests.store.builders import commit, make_entries, start_run


def test_a_shard_without_a_receipt_is_missing(disk):
    header = start_run(disk, make_entries(4))
    assert missing_shards(header, {0: 0, 2: 3}) == PendingWork([1, 3])
    assert missing_shards(header, dict.fromkeys(range(4), 0)).shards == []


def test_shards_that_were_tried_before_come_last(disk):
    header = start_run(disk, make_entries(5))
    assert missing_shards(header, {2: 0}, tried={0, 3}).shards == [1, 4, 0, 3]


def test_shards_with_an_image_in_quarantine_are_retried_from_the_generation_that_stands(disk):
    header = start_run(disk, make_entries(3, per_shard=8))
    commit(disk, header, 0)
    commit(disk, header, 2, generation=1)
    expected = PendingWork([0, 2], {0: 0, 2: 1}, num_images=4)
    assert quarantined_shards(latest_receipts(disk), None) == expected
    assert quarantined_shards(latest_receipts(disk), frozenset({"corrupt", "missing"})) == expected
    assert quarantined_shards(latest_receipts(disk), frozenset({"missing"})) == PendingWork([])


def test_excluded_images_are_not_retried(disk):
    (receipt,) = commit(disk, start_run(disk, make_entries(1)), 0)
    counts = receipt.counts.model_copy(update={"reasons": {"excluded": 1}})
    assert quarantined_shards([receipt.model_copy(update={"counts": counts})], None) == PendingWork([])


@pytest.mark.parametrize("words", [None, ["missing"], ["missing", " decoder_timeout"]])
def test_reasons_are_read_from_a_list_of_codes(words):
    assert parse_reasons(words) == (None if words is None else {word.strip() for word in words})


def test_an_unknown_reason_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'mising' is not a quarantine reason: the reasons are missing, changed"):
        parse_reasons(["mising"])
