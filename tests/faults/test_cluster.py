"""The graph on several nodes: nodes that are lost, cut off, join or are chosen, and a store that never spills."""

from __future__ import annotations

import subprocess

import pytest

from pseudoris.files.location import RunLocation
from tests.builders.head import RAY
from tests.builders.hosts import can_make_hosts, ray_hosts
from tests.builders.images import png
from tests.faults.conftest import SLOW, SLOWER
from tests.faults.harness import local_cluster, open_attempts, prove, receipts, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

STAGED = ("placement.mode=staged", *(f"placement.{name}.max_actors=1" for name in ("propose", "caption", "filter")))
GROWING = ("placement.fused.max_actors=null", "placement.fused.num_cpus=1")


@pytest.mark.parametrize(
    ("words", "pools", "how"),
    [
        ((), ("fused",), "SIGKILL of a raylet and all its workers, 1 of 3 nodes"),
        (STAGED, ("propose", "caption", "filter"), "SIGKILL of a raylet, staged placement, 1 of 3 nodes"),
    ],
    ids=["fused", "staged"],
)
def test_a_node_killed_in_the_midst_of_a_shard_costs_work_that_is_counted_and_blames_nobody(
    cluster, source, undisturbed, tmp_path, words, pools, how
):
    # A node takes seconds to die on a busy machine, and a shard must outlast that.
    slower = (word.replace("0.5", "1.5") for word in SLOWER)
    driver = start_driver(source, tmp_path, cluster.address, *slower, *words)
    driver.wait_for_commits(1)
    cluster.kill_node(driver.attempt(lambda attempt: attempt.pool == pools[0]).node)
    try:
        left = driver.finish()
    finally:
        cluster.add_node()
    prove(tmp_path, undisturbed, fault="a node is lost", how=how)
    done = receipts(RunLocation.open(str(tmp_path)))
    assert all(set(receipt.attempts) == set(pools) for receipt in done)
    assert left["repeats"] == sum(receipt.num_repeats for receipt in done) >= 1


def test_a_node_that_is_cut_off_and_works_on_doubles_nothing(source, undisturbed, tmp_path):
    if not can_make_hosts():
        pytest.skip("this process may not make network namespaces")
    with ray_hosts(3) as hosts:
        prefix = tuple(hosts.command(0))
        driver = start_driver(source, tmp_path, hosts.address, *SLOWER, prefix=prefix)
        driver.wait_for_commits(1)
        pid = int(driver.attempt().process.partition("-")[0])
        hosts.cut(hosts.host_of(pid))
        left = driver.finish()
    prove(tmp_path, undisturbed, fault="a node is cut off", how="the link of 1 of 3 network namespaces set down")
    assert left["repeats"] >= 1


def test_a_node_that_joins_in_the_midst_of_a_run_is_used(source, undisturbed, tmp_path):
    slower = tuple(word.replace("0.12", "3") for word in SLOW)
    with local_cluster(1) as cluster:
        driver = start_driver(source, tmp_path, cluster.address, *slower, *GROWING)
        first = driver.attempt().node
        added = cluster.add_node().node_id
        assert added != first
        assert driver.attempt(lambda attempt: attempt.node == added)
        driver.finish()
    prove(tmp_path, undisturbed, fault="a node joins", how="a second raylet started in the midst of the run")


def test_models_run_on_nodes_of_the_resource_that_the_placement_names(source, undisturbed, tmp_path):
    with local_cluster(2) as cluster:
        spot = cluster.add_node(resources={"spot": 1}).node_id
        word = "placement.fused.resources={spot: 0.01}"
        driver = start_driver(source, tmp_path, cluster.address, *SLOW, word)
        seen = set()
        while driver.process.poll() is None:
            seen |= {attempt.node for attempt in open_attempts(driver.location())}
        driver.finish()
        assert seen == {spot}
    how = "a custom resource on one of three nodes, asked for by the models"
    prove(tmp_path, undisturbed, fault="spot nodes", how=how)


def test_three_stages_share_one_gpu_by_fractions(source, undisturbed, tmp_path):
    fractions = {"propose": 0.3, "caption": 0.5, "filter": 0.2}
    with local_cluster(1, num_gpus=1) as cluster:
        gpus = (f"placement.{name}.num_gpus={share}" for name, share in fractions.items())
        driver = start_driver(source, tmp_path, cluster.address, *SLOW, *STAGED, *gpus)
        driver.finish()
    prove(tmp_path, undisturbed, fault="none", how="three pools on fractions of one (logical) GPU")


def test_blocks_wait_at_their_readers_and_the_object_store_never_spills(tmp_path):
    # 260 MB of images for readers far faster than the one actor; the only store with room for blocks holds 80.
    noise = png(height=600, width=600, seed=1)
    assert len(noise) > 10**6
    (tmp_path / "in").mkdir()
    for index in range(240):
        (tmp_path / "in" / f"{index:03d}.png").write_bytes(noise + bytes([index]))
    with local_cluster(1, object_store_memory=80 * 2**20) as cluster:
        driver = start_driver(tmp_path / "in", tmp_path / "out", cluster.address, *SLOW, "placement.fused.max_actors=1")
        driver.finish()
        # In a process of its own: this one may be connected to another cluster.
        command = [*RAY, "memory", "--stats-only", "--address", cluster.address]
        summary = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Plasma memory usage" in summary, summary
    assert "Spilled" not in summary, summary


def test_shards_too_large_for_the_object_store_are_refused_before_the_work(cluster, source, tmp_path):
    noise = png(height=600, width=600, seed=1)
    (tmp_path / "in").mkdir()
    for index in range(64):
        (tmp_path / "in" / f"{index:02d}.png").write_bytes(noise + bytes([index]))
    refused = start_driver(tmp_path / "in", tmp_path / "out", cluster.address, *SLOW, "shards.max_images=64").finish(1)
    assert "object store" in refused["text"]
    assert "shards.max_bytes" in refused["text"]
    assert not list((tmp_path / "out").glob("_receipts/*"))
