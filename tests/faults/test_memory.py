"""Memory that runs out in a stage, really: the run stops and says what to lower, or lowers it where it may."""

from __future__ import annotations

import re
import threading

import psutil
import pytest

from pseudoris.files.location import RunLocation
from tests.builders.command import pseudoris
from tests.builders.runs import STUBS
from tests.faults.conftest import SLOW
from tests.faults.harness import local_cluster, prove, receipts, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# 64 points of 8 MB where 400 MB are allowed: half of them fit, after one halving.
SHORT = ("masks.points_per_batch=64", "masks.options={sleep_s: 0.12, mb_per_point: 8, allowed_mb: 400}")


@pytest.mark.long
def test_memory_that_runs_out_stops_the_run_and_more_of_it_continues(cluster, source, tmp_path, tmp_path_factory):
    ended = start_driver(source, tmp_path, cluster.address, *SLOW, *SHORT).finish(code=1)
    assert "the propose stage ran out of memory on shard" in ended["text"]
    assert "masks.points_per_batch (now 64)" in ended["text"]

    start_driver(source, tmp_path, cluster.address, *SLOW, *SHORT, "placement.allow_degraded=true").finish()
    reference = tmp_path_factory.mktemp("undisturbed")
    plenty = ("masks.points_per_batch=64", "masks.options={sleep_s: 0.12}")
    start_driver(source, reference, cluster.address, *SLOW, *plenty).finish()
    how = "a limit on the address space of a process that allocates more; --allow-degraded after the stop"
    prove(tmp_path, reference, fault="out of memory in a stage", how=how)
    lowered = [receipt.degraded for receipt in receipts(RunLocation.open(str(tmp_path)))]
    assert lowered == [{"masks.points_per_batch": 32}] * 8


@pytest.mark.long
def test_rays_memory_monitor_ends_a_hoarder_and_nobody_is_blamed(source, undisturbed, tmp_path, monkeypatch):
    memory, room = psutil.virtual_memory(), 3 * 2**30
    if memory.available < 3 * room:
        pytest.skip("less than 9 GB of memory are free")
    # Of this machine's memory: what is used now, the run itself, and no hoard beside it.
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(memory.total - memory.available + room) / memory.total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    options = f"masks.options={{sleep_s: 0.12, hoards: 1, hoard_mb: 5000, tally: {tmp_path / 'tally'}}}"
    with local_cluster(1) as cluster:
        driver = start_driver(source, tmp_path / "out", cluster.address, *SLOW, options)
        driver.finish()
    how = "a stage that takes 5 GB where 3 are left, ended by the monitor"
    prove(tmp_path / "out", undisturbed, fault="Ray's memory monitor", how=how)
    assert (tmp_path / "tally").stat().st_size >= 1
    assert max(receipt.attempts["fused"] for receipt in receipts(RunLocation.open(str(tmp_path / "out")))) >= 2


@pytest.mark.long
def test_a_machine_without_memory_ends_the_run_and_says_what_is_in_use(source, tmp_path, monkeypatch):
    # Below what is used before the run: the monitor ends each worker that it finds, again and again.
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.02")
    options = [word for assignment in STUBS for word in ("--set", assignment)]
    words = (str(source), str(tmp_path / "out"), "--address", "local", *options)
    ended = pseudoris("annotate", "--preset=tiny", *words, code=3)
    assert re.search(r"Ray's memory monitor ended workers .* in use, its limit is [\d.]+ GiB.* use fewer", ended.stderr)


def test_workers_that_the_monitor_ends_on_a_cluster_of_others_are_told_while_the_run_goes_on(
    source, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.02")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    with local_cluster(1) as cluster:
        driver = start_driver(source, tmp_path / "out", cluster.address)
        assert driver.process.stdout is not None
        deadline = threading.Timer(240, driver.process.kill)
        deadline.start()
        said = next((line for line in driver.process.stdout if "memory monitor" in line), "nothing of it")
        is_alive = driver.process.poll() is None
        deadline.cancel()
        driver.process.terminate()
        driver.process.communicate()
    told = r"has ended \d+ workers? so far .* in use, its limit is [\d.]+ GiB\): .*placement\.fused\.max_actors.*larger"
    assert re.search(told, said), said
    assert is_alive
