"""The life of a run, with executors that commit in this process: done, interrupted, killed, taken over, retried."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from unittest.mock import Mock

import pytest

from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.data_card import CARD_NAME, is_generated, write_datacard
from pseudoris.store.runs.commit import commit_retry, quarantined_ids
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import Claim, RunLock, TakenOverError, claim_to_bytes
from pseudoris.store.runs.manifest import is_manifest_complete, iter_manifest, manifest_numbers, write_manifest
from pseudoris.store.runs.pending_work import Notice, PendingWork, missing_shards, quarantined_shards
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import PlannedRun
from pseudoris.store.runs.receipts import list_receipts, read_receipt, receipt_path
from pseudoris.store.sessions import session as sessions
from pseudoris.store.sessions.session import RunSession
from pseudoris.store.sessions.thread_executor import write_run
from tests.store.builders import (
    annotated,
    commit,
    commit_made,
    extend_run,
    make_entries,
    make_shard,
    parts,
    quarantined,
    start_run,
)

NUM_SHARDS = 5


@pytest.fixture
def run(disk):
    start_run(disk, make_entries(NUM_SHARDS))
    return disk


@contextmanager
def session_of(location, on_event=lambda event: None):
    with RunLock.held(location) as lock:
        yield RunSession(location, require_header(location), lock, on_event=on_event)


def execute(location, executor, on_event=lambda event: None, reasons=None):
    """Run a session over what is missing, or with `reasons` over what is quarantined for them."""
    with session_of(location, on_event) as session:
        if reasons is not None:
            return session.execute(quarantined_shards(session.receipts(), reasons), executor)
        return session.execute(missing_shards(require_header(location), session.latest), executor)


def committing(location, *, stop_after=None, ahead=0):
    """Return an executor that commits shard by shard, `ahead` of what it yields, and may raise on the way."""

    def executor(pending):
        header = require_header(location)
        waiting = []
        for number, shard in enumerate(pending.shards):
            if number == stop_after:
                raise KeyboardInterrupt
            waiting += commit(location, header, shard)
            if len(waiting) > ahead:
                yield waiting.pop(0)
        yield from waiting

    return executor


def recovering(location, *shards):
    """Return an executor that brings the images of these shards back, and leaves the others as they are."""

    def executor(pending):
        header = require_header(location)
        for shard in pending.shards:
            base = pending.base_generations[shard]
            retried = quarantined_ids(location, read_receipt(location, shard, base))
            entries = [each for each in read_shard_plan(location, header, shard) if each.image_id in retried]
            images = tuple(map(annotated if shard in shards else quarantined, entries))
            yield commit_made(location, header, Shard(shard, base + 1, images), write=commit_retry)

    return executor


def never(pending):
    pytest.fail("there was nothing to do")
    yield


def test_a_session_does_what_is_missing_and_tells_each_commit_once(run):
    events = []
    commit(run, require_header(run), 0, 3)
    outcome = execute(run, committing(run), events.append)
    assert [event.receipt.shard for event in events] == [1, 2, 4]
    assert {event.replaced for event in events} == {None}
    assert (outcome.num_shards_before, outcome.num_images_now, outcome.is_interrupted) == (2, 12, False)
    assert (outcome.totals.shards, outcome.totals.images) == (5, 20)
    assert outcome.wall_s > 0
    assert list(iter_manifest(run)) == [read_receipt(run, shard, 0) for shard in range(NUM_SHARDS)]
    assert verify_run(run).is_clean


def test_garbage_goes_before_the_last_manifest_and_the_card_comes_after_it(run, monkeypatch):
    order = []
    for name in ("run_gc", "write_manifest", "write_datacard"):
        called = getattr(sessions, name)
        monkeypatch.setattr(
            sessions,
            name,
            lambda *args, name=name, called=called, **named: order.append(name) or called(*args, **named),
        )
    run.replace("masks/shard-00000001.g0-00000000.parquet", b"of a writer that lost")
    events = []
    execute(run, committing(run), events.append)
    assert order == ["run_gc", "write_manifest", "write_datacard"]
    assert len(parts(run)) == NUM_SHARDS * len(SCHEMAS)
    assert not [event for event in events if isinstance(event, Notice)]
    assert not run.exists("DATACARD.generated.md")
    assert is_generated(run.read_bytes("DATACARD.md"))


def test_a_run_killed_after_its_last_commit_is_finished_without_work(run):
    commit(run, require_header(run), *range(NUM_SHARDS))
    run.replace("masks/shard-00000001.g0-00000000.parquet", b"of a writer that lost")
    execute(run, never)
    assert [receipt.shard for receipt in iter_manifest(run)] == list(range(NUM_SHARDS))
    assert len(parts(run)) == NUM_SHARDS * len(SCHEMAS)
    assert run.exists("DATACARD.md")


def test_what_a_killed_retry_left_goes_with_a_later_session_though_it_has_no_work(run):
    execute(run, committing(run))
    young, old = (f"masks/shard-0000000{shard}.g1-00000000.parquet" for shard in (1, 2))
    for path in (young, old):
        run.replace(path, b"of a retry that was killed")
    # A task of its dead driver may still commit the young one.
    os.utime(Path(run.root, old), (0, 0))
    with session_of(run) as session:
        run.create_once("_lock/claim-00000099.json", claim_to_bytes(Claim("another", 0, "elsewhere", 1)))
        with pytest.raises(TakenOverError):
            session.execute(PendingWork(()), never)
    run.delete("_lock/claim-00000099.json")
    assert run.exists(old)
    execute(run, never)
    assert (run.exists(young), run.exists(old)) == (True, False)


def without_images(location, *, num_done=NUM_SHARDS):
    """Return an executor that quarantines all images, and is killed after so many shards."""

    def executor(pending):
        header = require_header(location)
        for number, shard in enumerate(pending.shards):
            if number == num_done:
                raise MemoryError
            entries = read_shard_plan(location, header, shard)
            yield commit_made(location, header, Shard(shard, 0, tuple(map(quarantined, entries))))

    return executor


def test_no_manifest_shows_a_deleted_receipt_in_place_of_the_one_that_came_again(run):
    execute(run, committing(run))
    old = list(iter_manifest(run))
    for shard in (2, 3):
        run.delete(receipt_path(shard, 0))
    with pytest.raises(MemoryError):
        execute(run, without_images(run, num_done=1))
    assert execute(run, without_images(run)).totals.quarantined == 3 + 2 * 4
    assert list(iter_manifest(run)) == [read_receipt(run, shard, 0) for shard in range(NUM_SHARDS)]
    assert verify_run(run).is_clean
    # A manifest that shows them all the same is replaced by a repair.
    write_manifest(run, old)
    with session_of(run) as session:
        session.execute(session.with_damaged(PendingWork(())), never)
    assert list(iter_manifest(run)) == [read_receipt(run, shard, 0) for shard in range(NUM_SHARDS)]


def test_a_lost_part_of_the_plan_is_told_though_nothing_is_to_do(run):
    execute(run, committing(run))
    run.delete(f"_plan/{require_header(run).plan_parts[0].name}")
    with pytest.raises(ConfigError, match=r"_plan/.* is missing, although _run\.json names it"):
        execute(run, never)


def test_what_a_second_driver_adds_meanwhile_is_in_the_manifest_and_on_the_card(run):
    def executor(pending):
        yield from committing(run)(pending)
        # It took the run over when the first one had no more to commit.
        header = extend_run(run, require_header(run), make_entries(1, first_shard=NUM_SHARDS))
        commit(run, header, NUM_SHARDS)

    execute(run, executor)
    assert is_manifest_complete(run, list_receipts(run))
    card = run.read_bytes(CARD_NAME)
    assert write_datacard(run) == CARD_NAME
    assert run.read_bytes(CARD_NAME) == card


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_interrupt_ends_a_session_cleanly_and_counts_what_was_committed_unseen(run, ahead):
    events = []
    left = execute(run, committing(run, stop_after=3, ahead=ahead), events.append)
    assert (left.is_interrupted, left.totals.shards, left.num_images_now) == (True, 3, 12)
    assert not run.exists("DATACARD.md")
    assert sorted(event.receipt.shard for event in events) == [0, 1, 2]
    assert manifest_numbers(run) == []
    done = execute(run, committing(run))
    assert (done.is_interrupted, done.num_shards_before) == (False, 3)
    assert verify_run(run).is_clean


def test_shards_that_come_back_without_a_commit_are_an_error(run):
    def executor(pending):
        yield from committing(run)(PendingWork(pending.shards[:3]))

    with pytest.raises(TransientError, match=r"^2 shards were not committed; run the same command again to continue$"):
        execute(run, executor)
    assert not run.exists("DATACARD.md")


def test_a_session_whose_run_was_taken_over_ends_at_the_next_commit(run, monkeypatch):
    checks = chain([None, TakenOverError("another driver holds the run")], repeat(None))
    monkeypatch.setattr(RunLock, "check", Mock(side_effect=checks))
    with pytest.raises(TakenOverError, match="another driver holds the run"):
        execute(run, committing(run))
    assert list(list_receipts(run)) == [0, 1]
    assert manifest_numbers(run) == []


def test_a_retry_replaces_what_it_brought_back_and_leaves_the_other_receipts_standing(run):
    execute(run, committing(run))
    before, events = list(iter_manifest(run)), []
    outcome = execute(run, recovering(run, 0, 3), events.append, reasons=frozenset({"corrupt"}))
    assert [event.replaced for event in events] == before
    assert [event.receipt.generation for event in events] == [1, 0, 0, 1, 0]
    assert [event.receipt == event.replaced for event in events] == [False, True, True, False, True]
    totals = outcome.totals
    assert (totals.shards, totals.images, totals.quarantined, totals.retried) == (NUM_SHARDS, 20, 3, 2)
    assert (outcome.num_shards_before, outcome.num_images_now) == (NUM_SHARDS, 0)
    assert len(parts(run)) == NUM_SHARDS * len(SCHEMAS)
    assert verify_run(run).is_clean


def test_a_late_writers_commit_is_no_part_of_what_the_session_retries(run):
    header = require_header(run)
    commit(run, header, 0, 1)
    with session_of(run) as session:
        commit(run, header, 2)
        assert [receipt.shard for receipt in session.receipts()] == [0, 1]
        assert (session.latest, session.num_images) == ({0: 0, 1: 0}, 8)


def test_a_shard_that_another_driver_committed_meanwhile_counts_once(run):
    def executor(pending):
        commit(run, require_header(run), *pending.shards)
        yield from without_images(run)(pending)

    outcome = execute(run, executor)
    assert (outcome.totals.shards, outcome.totals.quarantined) == (NUM_SHARDS, NUM_SHARDS)
    assert verify_run(run).is_clean


def write(location, *, make=make_shard, on_progress=lambda done, total: None, num_workers=1):
    """Let threads write what is missing of a run."""
    options = {"on_progress": on_progress, "num_workers": num_workers}
    with RunLock.held(location) as lock:
        return write_run(location, PlannedRun(require_header(location)), make, lock=lock, **options)


@pytest.mark.slow
def test_an_interrupt_ends_what_has_begun_begins_nothing_more_and_is_raised_again(run):
    begun, is_stopped = [], threading.Event()

    def make(entries):
        begun.append(entries[0].shard)
        # All but the first are at work while its commit is told.
        if entries[0].shard > 0:
            assert is_stopped.wait(timeout=60)
        return make_shard(entries)

    def stop(done, total):
        if done == 4:
            # Later than the executor is closed, so that what waits in its queue is not begun.
            threading.Timer(1.0, is_stopped.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(run, make=make, on_progress=stop, num_workers=2)
    assert set(list_receipts(run)) == set(begun)
    assert 2 <= len(begun) < NUM_SHARDS
    assert write(run).num_shards_before == len(begun)


@pytest.mark.slow
def test_a_card_that_was_edited_is_told_in_the_log(run, caplog):
    write(run)
    run.replace("DATACARD.md", b"mine")
    with caplog.at_level(logging.WARNING):
        write(run)
    assert "DATACARD.md was edited by hand" in caplog.text
