"""The life of a run, with executors that commit in this process: done, interrupted, killed, taken over, retried."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.data_card import CARD_NAME, is_generated, write_datacard
from pseudoris.store.runs import session as sessions
from pseudoris.store.runs.commit import Provenance, commit_retry, commit_shard, quarantined_ids
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import RunLock, TakenOverError
from pseudoris.store.runs.manifest import is_manifest_complete, iter_manifest, manifest_numbers
from pseudoris.store.runs.pending_work import Notice, PendingWork, missing_shards, quarantined_shards
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import list_receipts, read_receipt
from pseudoris.store.runs.session import RunSession
from tests.store.builders import annotated, commit, extend_run, make_entries, quarantined, start_run

NUM_SHARDS = 5


@pytest.fixture
def run(disk):
    start_run(disk, make_entries(NUM_SHARDS))
    return disk


@pytest.fixture
def undisturbed(tmp_path):
    location = RunLocation.open(str(tmp_path / "undisturbed"))
    start_run(location, make_entries(NUM_SHARDS))
    execute(location, committing(location))
    return location


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


def committing(location, *, stop_after=None, error=KeyboardInterrupt, ahead=0):
    """Return an executor that commits shard by shard, `ahead` of what it yields, and may raise on the way."""

    def executor(pending):
        header = require_header(location)
        waiting = []
        for number, shard in enumerate(pending.shards):
            if number == stop_after:
                raise error
            waiting += commit(location, header, shard)
            if len(waiting) > ahead:
                yield waiting.pop(0)
        yield from waiting

    return executor


def recovering(location, reasons):
    """Return an executor that brings images with one of `reasons` back, and leaves the others as they are."""

    def executor(pending):
        header = require_header(location)
        for shard in pending.shards:
            base = pending.base_generations[shard]
            entries = read_shard_plan(location, header, shard)
            retried = quarantined_ids(location, read_receipt(location, shard, base))
            images = tuple(
                annotated(entry) if reasons is None else quarantined(entry)
                for entry in entries
                if entry.image_id in retried
            )
            ids = [entry.image_id for entry in entries]
            retried = Shard(shard, base + 1, images)
            options = {"embed_images": True, "provenance": Provenance(header_sha256=header.sha256)}
            yield commit_retry(location, retried, planned_ids=ids, **options)

    return executor


def never(pending):
    pytest.fail("there was nothing to do")
    yield


def parts(location):
    return {f"{table}/{file.name}" for table in SCHEMAS for file in location.list(table)}


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
    assert is_manifest_complete(run, list_receipts(run))
    assert len(parts(run)) == NUM_SHARDS * len(SCHEMAS)
    assert run.exists("DATACARD.md")


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


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", range(NUM_SHARDS))
def test_whatever_the_executor_raises_the_next_session_continues(run, undisturbed, stop_after):
    with pytest.raises(TransientError, match="no answer"):
        execute(run, committing(run, stop_after=stop_after, error=TransientError("no answer")))
    assert len(list_receipts(run)) == stop_after
    assert not run.exists("DATACARD.md")
    assert execute(run, committing(run)).num_shards_before == stop_after
    assert parts(run) == parts(undisturbed)
    assert verify_run(run).is_clean


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 2])
def test_an_interrupt_ends_a_session_cleanly_and_counts_what_was_committed_unseen(run, undisturbed, ahead):
    events = []
    left = execute(run, committing(run, stop_after=3, ahead=ahead), events.append)
    assert (left.is_interrupted, left.totals.shards, left.num_images_now) == (True, 3, 12)
    assert not run.exists("DATACARD.md")
    assert sorted(event.receipt.shard for event in events) == [0, 1, 2]
    assert manifest_numbers(run) == []
    done = execute(run, committing(run))
    assert (done.is_interrupted, done.num_shards_before) == (False, 3)
    assert parts(run) == parts(undisturbed)


def test_shards_that_come_back_without_a_commit_are_an_error(run):
    def executor(pending):
        yield from committing(run)(PendingWork(pending.shards[:3]))

    with pytest.raises(TransientError, match=r"^2 shards were not committed; run the same command again to continue$"):
        execute(run, executor)
    assert not run.exists("DATACARD.md")


def test_a_session_whose_run_was_taken_over_ends_at_the_next_commit(run, monkeypatch):
    checks = []

    def check(lock):
        checks.append(lock)
        if len(checks) == 2:
            raise TakenOverError("another driver holds the run")

    monkeypatch.setattr(RunLock, "check", check)
    with pytest.raises(TakenOverError, match="another driver holds the run"):
        execute(run, committing(run))
    assert list(list_receipts(run)) == [0, 1]
    assert manifest_numbers(run) == []


@pytest.mark.slow
def test_a_retry_takes_the_place_of_the_receipts_before_it(run):
    first = execute(run, committing(run))
    before = list(iter_manifest(run))
    assert first.totals.quarantined == NUM_SHARDS
    events = []
    outcome = execute(run, recovering(run, None), events.append, reasons=frozenset({"corrupt"}))
    assert [event.replaced for event in events] == before
    assert {event.receipt.generation for event in events} == {1}
    totals = outcome.totals
    assert (totals.shards, totals.images, totals.quarantined, totals.retried) == (NUM_SHARDS, 20, 0, NUM_SHARDS)
    assert (outcome.num_shards_before, outcome.num_images_now) == (NUM_SHARDS, 0)
    assert set(list_receipts(run).values()) == {1}
    assert len(parts(run)) == NUM_SHARDS * len(SCHEMAS)
    assert verify_run(run).is_clean


def test_a_retry_that_changes_nothing_leaves_its_receipts_standing(run):
    first = execute(run, committing(run))
    events = []
    outcome = execute(run, recovering(run, "corrupt"), events.append, reasons=frozenset({"corrupt"}))
    assert all(event.receipt == event.replaced for event in events)
    assert (len(events), outcome.totals) == (NUM_SHARDS, first.totals)


def test_a_late_writers_commit_is_no_part_of_what_the_session_retries(run):
    header = require_header(run)
    commit(run, header, 0, 1)
    with session_of(run) as session:
        commit(run, header, 2)
        assert [receipt.shard for receipt in session.receipts()] == [0, 1]
        assert (session.latest, session.num_images) == ({0: 0, 1: 0}, 8)


def test_a_shard_that_another_driver_committed_meanwhile_counts_once(run):
    def executor(pending):
        header = require_header(run)
        for shard in pending.shards:
            commit(run, header, shard)
            entries = read_shard_plan(run, header, shard)
            late = Shard(shard, 0, tuple(quarantined(entry) for entry in entries))
            ids = [entry.image_id for entry in entries]
            provenance = Provenance(header_sha256=header.sha256)
            yield commit_shard(run, late, planned_ids=ids, embed_images=True, provenance=provenance)

    outcome = execute(run, executor)
    assert (outcome.totals.shards, outcome.totals.quarantined) == (NUM_SHARDS, NUM_SHARDS)
    assert verify_run(run).is_clean
