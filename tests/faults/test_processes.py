"""Processes that are lost in the midst of a run, and memory that runs out: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import threading
import time

import psutil
import pytest

from pseudoris.files.location import RunLocation
from tests.builders.command import pseudoris
from tests.builders.hostile_plugin import hostile
from tests.builders.runs import STUBS
from tests.faults.conftest import SLOW, SLOWER
from tests.faults.harness import local_cluster, num_receipts, prove, receipts, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.long
def test_a_stage_actor_killed_in_the_midst_of_a_shard(cluster, source, undisturbed, tmp_path):
    driver = start_driver(source, tmp_path, cluster.address, *SLOWER)
    driver.wait_for_commits(1)
    struck = driver.attempt()
    os.kill(int(struck.process.partition("-")[0]), signal.SIGKILL)
    driver.finish()
    prove(tmp_path, undisturbed, fault="a stage's process dies", how="SIGKILL of an actor in the midst of a shard")
    (receipt,) = [receipt for receipt in receipts(RunLocation.open(str(tmp_path))) if receipt.shard == struck.shard]
    assert receipt.attempts == {"fused": 2}
    assert receipt.counts.reasons.keys() <= {"empty_file", "not_an_image", "corrupt"}


@pytest.mark.long
def test_a_driver_killed_at_ten_random_points_is_followed_by_the_same_bytes(cluster, source, undisturbed, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(10):
        driver = start_driver(source, tmp_path, cluster.address, *SLOW)
        before = num_receipts(RunLocation.open(str(tmp_path)))
        point = draw.choice(("start", "begun", "committed"))
        if point == "begun" and before < 8:
            driver.attempt()
        elif point == "committed" and before < 7:
            driver.wait_for_commits(before + 1)
        time.sleep(draw.uniform(0.0, 3.0 if point == "start" else 0.5))
        driver.kill()
    left = start_driver(source, tmp_path, cluster.address, *SLOW).finish()
    assert left["shards"] == 8
    prove(
        tmp_path, undisturbed, fault="the driver dies", how="SIGKILL at random points, then the same command", tries=10
    )


@pytest.mark.long
def test_a_poison_image_that_kills_its_process_costs_itself_alone(cluster, source, undisturbed, tmp_path):
    poison = "a/image-012.png"
    options = f"masks.options={{sleep_s: 0.12, kills_on: {poison}}}"
    driver = start_driver(source, tmp_path, cluster.address, *SLOW, options)
    driver.finish()
    done = receipts(RunLocation.open(str(tmp_path)))
    killed = [receipt for receipt in done if "process_killed" in receipt.counts.reasons]
    assert [receipt.counts.reasons["process_killed"] for receipt in killed] == [1]
    # Two deaths, and the attempt that searched, found, and went through.
    assert killed[0].attempts == {"fused": 3}
    reference = {receipt.shard: receipt for receipt in receipts(RunLocation.open(str(undisturbed)))}
    others = [receipt for receipt in done if receipt.shard != killed[0].shard]
    assert all(receipt.parts == reference[receipt.shard].parts for receipt in others)
    assert killed[0].counts.images == reference[killed[0].shard].counts.images
    how = "a C-level abort on one image"
    prove(tmp_path, undisturbed, fault="an image kills its process", how=how, but=poison)


@pytest.mark.long
def test_an_image_whose_decoder_dies_costs_itself_alone(cluster, source, undisturbed, tmp_path):
    key = "a/image-012.png"
    shutil.copytree(source, tmp_path / "in")
    (tmp_path / "in" / key).write_bytes(hostile("abort"))
    plugin = "images.decoder_plugins=[tests.builders.hostile_plugin]"
    start_driver(tmp_path / "in", tmp_path / "out", cluster.address, *SLOW, plugin).finish()
    done = receipts(RunLocation.open(str(tmp_path / "out")))
    assert sum(receipt.counts.reasons.get("decoder_killed", 0) for receipt in done) == 1
    # It has never come to a stage.
    assert all(receipt.attempts == {"fused": 1} for receipt in done)
    how = "a C-level abort in the decoder of one image"
    prove(tmp_path / "out", undisturbed, fault="an image kills its decoder", how=how, but=key)


@pytest.mark.long
def test_the_head_node_dies_and_a_new_cluster_goes_on(source, undisturbed, tmp_path):
    with local_cluster(1) as first:
        driver = start_driver(source, tmp_path, first.address, *SLOW)
        driver.wait_for_commits(2)
        first.kill_head()
        driver.process.wait(timeout=300)
        assert driver.process.returncode != 0
    before = num_receipts(RunLocation.open(str(tmp_path)))
    assert 2 <= before < 8
    with local_cluster(1) as second:
        left = start_driver(source, tmp_path, second.address, *SLOW).finish()
    assert left["shards_before"] == before
    prove(tmp_path, undisturbed, fault="the head node dies", how="its processes killed, then a new cluster")


@pytest.mark.long
def test_an_image_that_raises_where_no_subprocess_lives_costs_another_try_of_the_shard(
    cluster, source, undisturbed, tmp_path
):
    # The image raises once; the subprocess that is to try it again dies while it loads. Both faults share the tally.
    tally = tmp_path / "tally"
    options = (
        f"masks.options={{sleep_s: 0.12, raises_on: a/image-012.png, raises_times: 1, child_dies: 2, tally: {tally}}}"
    )
    start_driver(source, tmp_path / "out", cluster.address, *SLOW, options).finish()
    how = "a stage that raises on one image, and the death of the subprocess that should try it again"
    prove(tmp_path / "out", undisturbed, fault="no subprocess for a second try", how=how)
    assert tally.stat().st_size == 2
    assert max(receipt.attempts["fused"] for receipt in receipts(RunLocation.open(str(tmp_path / "out")))) == 2


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


@pytest.mark.long
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
