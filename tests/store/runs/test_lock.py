from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from unittest.mock import Mock

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.store.runs import lock as lock_module
from pseudoris.store.runs.lock import (
    LOCK_FOLDER,
    Claim,
    LockTimes,
    RunLock,
    TakenOverError,
    claim_from_bytes,
    current_holder,
)
from tests.builders.command import wait_for
from tests.builders.fault_proxy import Fault

ELSEWHERE = Claim(owner="abc", counter=3, host="another-machine boot ns", pid=4711)


@dataclass
class Clock:
    """A clock that passes only while the lock sleeps; `then` happens at its time."""

    now_s: float = 0.0
    then: dict[float, object] = field(default_factory=dict)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for at_s in [at_s for at_s in self.then if at_s <= self.now_s]:
            self.then.pop(at_s)()

    def times(self) -> LockTimes:
        return LockTimes(clock=lambda: self.now_s, sleep=self.sleep)


@pytest.fixture
def clock():
    return Clock()


def put_claim(location, claim: Claim, number: int = 1) -> None:
    location.replace(f"{LOCK_FOLDER}/claim-{number:08d}.json", json.dumps(asdict(claim)).encode())


def written_claim(location, number: int = 1) -> dict:
    return json.loads(location.read_bytes(f"{LOCK_FOLDER}/claim-{number:08d}.json"))


def acquire(location, clock, said=None) -> RunLock:
    return RunLock.acquire(location, on_wait=(said if said is not None else []).append, times=clock.times())


def test_a_silent_owner_elsewhere_is_watched_for_a_minute_named_and_succeeded(location, clock):
    put_claim(location, ELSEWHERE)
    said = []
    acquire(location, clock, said).heartbeat()
    assert clock.now_s == 60.0
    assert "process 4711 on another-machine holds" in said[0]
    assert "gave no sign of life for 60 s" in said[1]
    # It may be alive: nobody here sees its process.
    assert re.match(r"process 4711 on another-machine gave no sign of life since .* UTC: it cannot reach the", said[2])


@pytest.mark.parametrize("is_last_now", [False, True])
def test_a_guarded_callback_looks_for_a_takeover_before_it_tells_the_end(location, clock, is_last_now):
    told = []
    lock = acquire(location, clock)
    guarded = lock.guarded(lambda done, total, stage="": told.append((done, stage)), is_last_now=is_last_now)
    guarded(0, 2, stage="reading")
    put_claim(location, ELSEWHERE, number=2)
    guarded(1, 2)
    with pytest.raises(TakenOverError) if is_last_now else nullcontext():
        guarded(2, 2)
    assert told == [(0, "reading"), (1, ""), (2, "")][: 2 if is_last_now else 3]


def test_an_owner_who_shows_a_sign_of_life_keeps_the_run(location, clock):
    put_claim(location, ELSEWHERE)
    clock.then[50.0] = lambda: put_claim(location, replace(ELSEWHERE, counter=4))
    with pytest.raises(ConfigError, match="process 4711 on another-machine is working on"):
        acquire(location, clock)
    assert clock.now_s == 50.0


def test_an_owner_killed_on_this_machine_is_succeeded_at_once(disk, clock):
    code = (
        "import sys, time; from pseudoris.store.runs.lock import RunLock; "
        "from pseudoris.files.location import RunLocation; "
        "RunLock.acquire(RunLocation.open(sys.argv[1])); print('mine', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, disk.root], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "mine\n"
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    said = []
    acquire(disk, clock, said)
    assert clock.now_s == 0.0
    death = (
        rf"^process {owner.pid} on .* was killed from outside .* between \d{{4}}-.* UTC\. Limits then: open files: \d"
    )
    (text,) = said
    assert re.match(death, text)


def test_an_owner_that_released_the_lock_is_not_called_killed(disk, clock):
    acquire(disk, clock).release()
    said = []
    acquire(disk, clock, said)
    assert said == []


_FIELDS_OF_0_5_0 = {"owner": "abc", "counter": 3, "host": "a-host", "pid": 4711, "is_released": False}


@pytest.mark.parametrize("later", [{}, {"limits": "open files: 64"}, {"since": 1.5, "of": {}}], ids=str)
def test_a_claim_of_version_0_5_0_or_of_a_later_one_is_read(later):
    assert claim_from_bytes(json.dumps(_FIELDS_OF_0_5_0 | later).encode()) == Claim("abc", 3, "a-host", 4711)


def test_version_0_5_0_reads_a_claim_of_ours(disk, clock):
    acquire(disk, clock).heartbeat()
    written = written_claim(disk)
    # It takes a claim with a field more, or of another type, for none, and the lock for free.
    assert {name: type(value) for name, value in written.items()} == {n: type(v) for n, v in _FIELDS_OF_0_5_0.items()}


def test_a_living_owner_on_this_machine_is_not_taken_for_dead(location, clock):
    owner = acquire(location, clock)
    clock.then[2.0] = owner.heartbeat
    with pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        acquire(location, clock)


def test_whoever_was_taken_over_is_told_at_the_next_beat_and_disturbs_nobody(location, clock):
    first = acquire(location, clock)
    first.heartbeat()
    second_clock = Clock()
    second = acquire(location, second_clock)
    assert second_clock.now_s == 60.0
    with pytest.raises(ConfigError, match=r"process .* took over .* while this one"):
        first.heartbeat()
    first.release()
    second.heartbeat()


def test_of_many_who_find_a_free_run_exactly_one_gets_it(disk):
    is_over, refused = threading.Event(), []

    def race(_) -> bool:
        try:
            with RunLock.held(disk, on_wait=lambda _: None, times=LockTimes(30, poll_s=0.01, heartbeat_s=0.02)):
                return is_over.wait(60)
        except ConfigError as error:
            refused.append(error)
            if len(refused) == 7:
                is_over.set()
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(race, range(8))) == [*[False] * 7, True]


def test_a_claim_below_one_that_appeared_meanwhile_is_no_lock(location, clock, monkeypatch):
    create = RunLocation.create_once

    def overtaken(self, path, data):
        # Between the look and the claim another driver came and went, and a third one holds the run.
        monkeypatch.setattr(lock_module.RunLocation, "create_once", create)
        put_claim(location, ELSEWHERE, 2)
        return create(self, path, data)

    monkeypatch.setattr(lock_module.RunLocation, "create_once", overtaken)
    acquire(location, clock).heartbeat()
    assert clock.now_s == 60.0


STRANGE_CLAIMS = {
    **{"nothing": b"", "a list": b"[]", "no owner's": b'{"owner": 1}', "deep": b"[" * 100_000},
    "a word for a process": {"pid": "12"},
    "a fraction for a process": {"pid": 1.5},
    "a truth for a process": {"pid": True},
    "all processes": {"pid": -1},
    "our group": {"pid": 0},
    "no process at all": {"pid": 2**70},
    "a list for a host": {"host": []},
    "null for an owner": {"owner": None},
    "a word for a count": {"counter": "x"},
    "a word for released": {"is_released": "no"},
}


@pytest.mark.parametrize("data", STRANGE_CLAIMS.values(), ids=STRANGE_CLAIMS)
def test_a_claim_that_says_nothing_binds_nobody(location, clock, data):
    acquire(location, clock)
    changed = json.dumps({**written_claim(location), **data}).encode() if isinstance(data, dict) else data
    location.replace(f"{LOCK_FOLDER}/claim-00000001.json", changed)
    assert current_holder(location) is None
    acquire(location, clock)
    assert clock.now_s == 0.0


def test_a_held_lock_beats_by_itself_and_is_released_at_the_end(disk):
    disk.replace("_run.json", b"{}")
    with RunLock.held(disk, times=LockTimes(heartbeat_s=0.01)) as lock:
        wait_for(lambda: written_claim(disk)["counter"] >= 3)
        lock.check()
    assert written_claim(disk)["is_released"]


def test_a_held_lock_that_is_lost_stops_its_owner(disk):
    with RunLock.held(disk, times=LockTimes(heartbeat_s=0.01)) as lock:
        put_claim(disk, ELSEWHERE, 2)

        def is_lost() -> bool:
            try:
                lock.check()
            except ConfigError as error:
                return "process 4711" in str(error)
            return False

        wait_for(is_lost)
    assert not written_claim(disk, 2)["is_released"]


@pytest.mark.parametrize("error", [TransientError, ConfigError])
def test_a_beat_that_storage_swallows_or_refuses_does_not_cost_the_lock(disk, monkeypatch, caplog, error):
    replace_file, failures = RunLocation.replace, []

    def fail_twice(self, path, data):
        if len(failures) < 2:
            failures.append(path)
            raise error("slow down")
        replace_file(self, path, data)

    with caplog.at_level(logging.WARNING), RunLock.held(disk, times=LockTimes(heartbeat_s=0.01)) as lock:
        monkeypatch.setattr(lock_module.RunLocation, "replace", fail_twice)
        wait_for(lambda: len(failures) == 2 and written_claim(disk)["counter"] >= 2)
        lock.check()
    assert "A heartbeat of the run's lock failed: slow down" in caplog.text


def fail_while_held(disk, monkeypatch, replacement, error, times=None):
    with RunLock.held(disk, times=times):
        monkeypatch.setattr(lock_module.RunLocation, "replace", replacement)
        raise error


@pytest.mark.parametrize("refusal", [TransientError("503 for minutes"), ConfigError("access is denied")])
def test_a_lock_that_cannot_be_given_back_hides_nothing_of_what_went_wrong(disk, monkeypatch, caplog, refusal):
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="what went wrong"):
        fail_while_held(disk, monkeypatch, Mock(side_effect=refusal), ValueError("what went wrong"))
    assert f"Could not release the run's lock. It expires in a minute: {refusal}" in caplog.text


def test_a_storage_that_has_stopped_to_answer_does_not_hold_up_the_end(disk, monkeypatch):
    is_over, no_answer = threading.Event(), TransientError("no answer")
    with pytest.raises(TransientError, match="no answer"):
        fail_while_held(disk, monkeypatch, lambda *_: is_over.wait(60), no_answer, LockTimes(release_s=0.05))
    # Reached while the release still waits.
    assert not is_over.is_set()
    is_over.set()


def test_claims_that_come_back_changed_end_in_one_sentence(bucket_run, proxy, clock):
    proxy.set_faults([Fault("edited", operation="GetObject", key="_lock/", old='"owner"', new='"other"')])
    said = []
    with pytest.raises(TransientError, match="Does a proxy between here and the store change or cut bodies"):
        acquire(bucket_run, clock, said)
    assert clock.now_s >= 20
    assert [text for text in said if "cannot be read back as it was written" in text]
    assert proxy.counts["PutObject"] <= 20


def lists_no_claim(number: int) -> Fault:
    """Return the fault of a store whose listings lack this claim."""
    claim = rf"(?s)<Contents>(?:(?!</Contents>).)*claim-{number:08d}.*?</Contents>"
    return Fault("edited", operation="ListObjectsV2", key="_lock", old=claim)


BEFORE = {"none": None, "silent": ELSEWHERE, "released": replace(ELSEWHERE, is_released=True)}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_a_listing_that_shows_ones_own_claim_late_is_no_other_process(bucket_run, proxy, clock, before):
    if before is not None:
        put_claim(bucket_run, before)
    proxy.set_faults([lists_no_claim(1 if before is None else 2)])
    watched_s = 60 if before == ELSEWHERE else 0
    clock.then[watched_s + 10] = lambda: proxy.set_faults([])
    said = []
    acquire(bucket_run, clock, said).heartbeat()
    assert clock.now_s == watched_s + 10
    assert sum("holds the lock" in text for text in said) == bool(watched_s)
    assert sum("the listing of _lock/ lacks a claim that was written" in text for text in said) == 1
    assert ("gave no sign of life since" in said[-1]) == bool(watched_s)


def test_a_listing_that_never_shows_ones_own_claim_is_named(bucket_run, proxy, clock):
    proxy.set_faults([lists_no_claim(1)])
    with pytest.raises(TransientError, match=r"the listing of _lock/ lacks a claim that was written\. Does a cache"):
        acquire(bucket_run, clock)
    assert 20 <= clock.now_s <= 60
    assert proxy.counts["PutObject"] == 1
