"""The arithmetic of actors over nodes, and its refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.pipeline.resources import (
    busy_actors,
    check_object_store,
    num_committers,
    num_readers,
    plan_actors,
    with_readers,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ON_CPUS, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.run_records import RunHeader


def config(*assignments: str) -> RunConfig:
    return load_config("tiny", None, [f"placement.{assignment}" for assignment in assignments])


def test_actors_that_leave_reading_nothing_are_refused_with_what_is_asked_and_what_exists():
    asked = r"(?s)placement\.fused: 1 x CPU 2.*placement\.read: 1 x CPU 0\.25.*1 node\(s\) of CPU 2"
    told = rf"{asked}\n.*--set placement\.fused\.num_cpus"
    with pytest.raises(ConfigError, match=told):
        plan_actors([{"CPU": 2.0}], config("fused.num_cpus=2"))


@pytest.mark.parametrize("preset", ["base", "paper"])
@pytest.mark.parametrize("mode", ["fused", "staged"])
def test_where_no_gpu_is_the_refusal_names_the_option_that_runs_without_one(preset, mode):
    assignments = [f"placement.mode={mode}"]
    with pytest.raises(ConfigError, match="Ray sees no GPU") as refusal:
        plan_actors([{"CPU": 4.0}], load_config(preset, None, assignments))
    assert "num_cpus=0.5" not in str(refusal.value)
    assert "--on-cpus" in str(refusal.value)
    assert all(plan_actors([{"CPU": 4.0}], load_config(preset, None, [*assignments, *ON_CPUS])).values())


@settings(max_examples=80, deadline=None)
@given(
    nodes=st.lists(
        st.builds(lambda c, g: {"CPU": c / 4, "GPU": float(g)}, st.integers(0, 64), st.integers(0, 4)), max_size=4
    ),
    cpus=st.integers(1, 8),
    gpus=st.integers(0, 4),
)
def test_what_is_planned_fits_next_to_a_reader_and_a_committer(nodes, cpus, gpus):
    asked = config(f"fused.num_cpus={cpus / 4}", f"fused.num_gpus={gpus / 4}")
    try:
        actors = plan_actors(nodes, asked)["fused"]
    except ConfigError:
        return
    assert actors >= 1
    assert actors * cpus / 4 + 0.5 <= sum(node["CPU"] for node in nodes)
    assert actors * gpus / 4 <= sum(node["GPU"] for node in nodes)


GIB = 2**30


def test_shards_in_flight_beyond_half_of_the_store_are_refused_with_what_to_lower():
    nodes = [{"CPU": 8.0, "object_store_memory": 3.0 * GIB}, {"CPU": 0.0}]
    # Two actors with two shards each, and two readers.
    check_object_store(nodes, config(), {"fused": 2}, GIB // 4)
    check_object_store(nodes, config(), {"fused": 2}, 0)
    nodes = [{"CPU": 8.0, "object_store_memory": 2.9 * GIB}]
    message = r"6 of up to 256 MiB .* half of the store, 1,485 MiB.*max_tasks_in_flight_per_actor.*shards\.max_bytes"
    with pytest.raises(ConfigError, match=message):
        check_object_store(nodes, config(), {"fused": 2}, GIB // 4)
    check_object_store(nodes, config("max_tasks_in_flight_per_actor=1"), {"fused": 2}, GIB // 4)


def test_a_cluster_that_grows_is_given_its_readers_and_committers_by_number():
    named = config("read.max_actors=16", "commit.max_actors=4")
    assert (num_readers(named.placement), num_committers(named.placement)) == (16, 4)
    assert num_committers(config("read.max_actors=16").placement) == 16
    assert num_readers(readers_for(named, 500, MB).placement) == 16


MB = 10**6


def readers_for(asked, num_actors, image_bytes, *, store_bytes=10**15, may_grow=False):
    a_shard = min(256, 256 * 2**20 // max(1, image_bytes))
    header = RunHeader.model_construct(
        num_images=1_000 * a_shard, num_shards=1_000, max_shard_bytes=a_shard * image_bytes
    )
    nodes = [{"CPU": 8.0, "object_store_memory": float(store_bytes)}]
    return with_readers(nodes, asked, {"fused": num_actors}, header, may_grow=may_grow)


@pytest.mark.parametrize(
    ("preset", "num_actors", "image_bytes", "num"),
    [
        ("base", 1, MB, 2),
        ("base", 8, 4 * MB, 26),
        ("base", 8, MB // 10, 2),
        ("base", 500, MB // 10, 65),
        ("tiny", 8, MB // 10, 2),
        ("base", 8, 0, 8),
    ],
)
def test_readers_are_as_many_as_the_bytes_of_the_images_ask_for(preset, num_actors, image_bytes, num):
    assert num_readers(readers_for(load_config(preset), num_actors, image_bytes).placement) == num


def test_a_cluster_that_grows_reads_ahead_of_it_and_never_more_than_its_object_store_holds():
    asked = load_config("base")
    assert num_readers(readers_for(asked, 8, MB, may_grow=True).placement) == 54
    # Half of the store holds 20 shards, and 8 actors have two each.
    small = readers_for(asked, 8, 4 * MB, store_bytes=2 * 20 * asked.shards.max_bytes)
    assert num_readers(small.placement) == 4
    check_object_store([{"object_store_memory": 40.0 * asked.shards.max_bytes}], small, {"fused": 8}, 67 * 4 * MB)


def test_no_actor_is_started_without_a_shard():
    planned = {"propose": 4, "caption": 4, "filter": 1}
    assert busy_actors(planned, 2) == {"propose": 2, "caption": 2, "filter": 1}
