"""The status of a run, from its receipts and its lock; and its rates."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.store.reports.run_status import (
    DRIVER_ALIVE,
    DRIVER_SILENT,
    StatusReader,
    find_bottleneck,
    measure_rates,
    run_status,
)
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.lock import LOCK_FOLDER, WATCH_S, Claim, RunLock, claim_to_bytes
from pseudoris.store.runs.manifest import write_manifest
from tests.store.builders import commit, make_entries, start_run


@pytest.mark.parametrize("has_manifest", [True, False])
def test_the_receipts_are_summed(location, has_manifest):
    receipts = commit(location, start_run(location), 0, 2)
    if has_manifest:
        write_manifest(location)
    status = run_status(location)
    assert (status.source, status.shards, status.images) == ("images/", 2, 8)
    assert (status.annotated, status.empty, status.quarantined) == (4, 2, 2)
    assert (status.masks, status.expressions, status.samples, status.kept) == (6, 12, 24, 8)
    assert status.reasons == {"corrupt": 2}
    assert status.seconds == {"propose": 3.0, "caption": 4.0}
    assert status.output_bytes == sum(part.size_bytes for each in receipts for part in each.parts.values())
    assert not status.is_complete


def test_a_generation_that_appears_between_two_looks_replaces_its_shards_figures(location):
    header = start_run(location)
    commit(location, header, 0, 1)
    reader = StatusReader(location)
    before = reader.read()
    commit(location, header, 1, generation=1, provenance=Provenance(mixed=("device_kind: 'a' in the run, 'b' now",)))
    after = reader.read()
    assert (after.retried, after.mixed, before.retried) == (1, 1, 0)
    assert (after.shards, after.masks, after.seconds) == (before.shards, before.masks, before.seconds)
    assert after.reasons == before.reasons == run_status(location).reasons


def test_speed_and_what_is_left_follow_the_times_of_the_receipts(disk):
    commit(disk, start_run(disk, make_entries(num_shards=10)), *range(5))
    for shard in range(5):
        path = f"_receipts/shard-{shard:08d}.g0.json"
        os.utime(disk.uri(path), (1_000 + 3.5 * shard,) * 2)
    lock = RunLock.acquire(disk)
    status = StatusReader(disk).read(now_s=1_014.0)
    assert status.rates.overall == pytest.approx(4 / 3.5)
    assert status.rates.now == pytest.approx(4 / 3.5)
    assert status.eta_s == pytest.approx(20 / (4 / 3.5))
    lock.release()
    # Nobody works on it: what is left takes as long as it took overall, from the next start on.
    assert StatusReader(disk).read(now_s=1_014.0).rates.now is None
    assert StatusReader(disk).read(now_s=9e9).eta_s == pytest.approx(20 / (4 / 3.5))


def test_a_driver_of_another_machine_is_alive_while_its_claim_is_young_or_moves(location):
    start_run(location)
    claim = Claim("abc", 0, "elsewhere", 4711)
    location.replace(f"{LOCK_FOLDER}/claim-00000001.json", claim_to_bytes(claim))
    reader = StatusReader(location)
    now_s = time.time()
    assert reader.read(now_s=now_s).driver.state == DRIVER_ALIVE
    assert reader.read(now_s=now_s + WATCH_S + 5).driver.state == DRIVER_SILENT
    location.replace(f"{LOCK_FOLDER}/claim-00000001.json", claim_to_bytes(replace(claim, counter=1)))
    # A machine whose clock is an hour ahead still sees the counter move.
    assert reader.read(now_s=now_s + 3_600).driver.state == DRIVER_ALIVE


def test_the_bottleneck_is_the_stage_with_most_seconds_an_actor_where_actors_are_known():
    seconds = {"read": 1.0, "propose": 20.0, "caption": 40.0, "filter": 4.0}
    actors = (
        f"placement.{stage}.max_actors={number}" for stage, number in (("propose", 2), ("caption", 8), ("filter", 1))
    )
    for settings, expected in (([], ("caption", False)), (["placement.mode=staged", *actors], ("propose", True))):
        found = find_bottleneck(seconds, load_config("tiny", None, settings))
        assert (found.stage, found.is_by_actor) == expected
        assert 0.4 < found.share < 0.7
    assert find_bottleneck({}, load_config("tiny")) is None


def rates(times_s, *, images=10, shard_s=30.0, now_s=None):
    times = np.array(times_s, np.float64)
    counts = np.full(times.size, images, np.int64)
    return measure_rates(times, counts, shard_s=shard_s, now_s=times[-1] if now_s is None else now_s)


@pytest.mark.parametrize("pause_s", [200.0, 3_600.0, 100 * 86_400.0])
def test_a_pause_between_two_starts_does_not_lower_the_overall_rate(pause_s):
    first = np.arange(1, 51) * 30.0
    found = rates(np.concatenate([first, first + first[-1] + pause_s]))
    assert found.num_pauses == 1
    assert found.overall == pytest.approx(10 / 30)
    assert found.active_s == pytest.approx(100 * 30.0)
