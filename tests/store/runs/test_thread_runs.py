"""Runs that threads write: in any order, the same bytes; an interrupt lets what has begun end."""

from __future__ import annotations

import logging
import threading

import pytest

from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.planned_run import PlannedRun
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.store.runs.thread_runs import write_run
from tests.store.builders import make_entries, make_shard, start_run

NUM_SHARDS, PER_SHARD = 6, 2


def write(location, *, make=make_shard, on_progress=lambda done, total: None, num_workers=1):
    header = start_run(location, make_entries(NUM_SHARDS, PER_SHARD), "shards.embed_images=true")
    with RunLock.held(location) as lock:
        planned = PlannedRun(header)
        return write_run(location, planned, make, lock=lock, on_progress=on_progress, num_workers=num_workers)


@pytest.fixture
def location(tmp_path):
    return RunLocation.open(str(tmp_path / "run"))


def parts(location):
    return {f"{table}/{file.name}" for table in SCHEMAS for file in location.list(table)}


@pytest.mark.slow
def test_threads_write_what_one_writes_and_progress_counts_images(location, tmp_path):
    seen = []
    written = write(location, on_progress=lambda *progress: seen.append(progress), num_workers=4)
    assert (written.totals.shards, written.num_shards_before) == (NUM_SHARDS, 0)
    assert seen == [(PER_SHARD * done, PER_SHARD * NUM_SHARDS) for done in range(NUM_SHARDS + 1)]
    assert verify_run(location).is_clean
    alone = RunLocation.open(str(tmp_path / "alone"))
    write(alone)
    assert parts(alone) == parts(location)


@pytest.mark.slow
def test_an_interrupt_ends_what_has_begun_begins_nothing_more_and_is_raised_again(location):
    begun, is_stopped = [], threading.Event()

    def make(entries):
        begun.append(entries[0].shard)
        # All but the first are at work while its commit is told.
        if entries[0].shard > 0:
            assert is_stopped.wait(timeout=60)
        return make_shard(entries)

    def stop(done, total):
        if done == PER_SHARD:
            # Later than the executor is closed, so that what waits in its queue is not begun.
            threading.Timer(1.0, is_stopped.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(location, make=make, on_progress=stop, num_workers=2)
    assert set(list_receipts(location)) == set(begun)
    assert 2 <= len(begun) < NUM_SHARDS
    assert write(location).num_shards_before == len(begun)


@pytest.mark.slow
def test_a_card_that_was_edited_is_told_in_the_log(location, caplog):
    write(location)
    location.replace("DATACARD.md", b"mine")
    with caplog.at_level(logging.WARNING):
        write(location)
    assert "DATACARD.md was edited by hand" in caplog.text
