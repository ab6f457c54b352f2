"""The simulated fleet against what can be computed in closed form, and against a real run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet import DriverQueue, Fleet, simulate
from benchmarks.scale import plugin_environment, stand_in_config, write_tables

CALM = {"node_losses_per_h": 0.0, "driver_deaths_per_h": 0.0}


def fleet(**changed) -> Fleet:
    return Fleet(**{"gpus": 4, "num_shards": 400, "shard_s": 100.0, "cycle_s": 100.0, **changed})


def everything(spent) -> float:
    return spent.work + spent.idle + spent.lost_to_nodes + spent.lost_to_drivers


@pytest.mark.parametrize("gpus", [1, 4, 400])
def test_without_faults_a_run_is_its_start_and_its_shards(gpus):
    spent = simulate(fleet(gpus=gpus, **CALM), seed=0)
    assert spent.hours * 3600 == pytest.approx(60.0 + 400 / gpus * 100.0, rel=1e-6)
    assert spent.work == pytest.approx(400 * 100.0)
    assert spent.idle == pytest.approx(60.0 * gpus, rel=1e-3)
    assert spent.control_share == pytest.approx(spent.idle / (spent.idle + spent.work), rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("losses_per_h", [0.5, 40.0], ids=["rare", "more often than a shard lasts"])
def test_a_lost_node_loses_what_a_memoryless_loss_must(losses_per_h):
    runs = [
        simulate(fleet(num_shards=2_000, node_losses_per_h=losses_per_h, driver_deaths_per_h=0.0), seed)
        for seed in range(20)
    ]
    rate = losses_per_h / 3600
    # The mean phase at an exponential moment that falls between two ends: half a shard where losses are rare.
    expected = 1 / rate - 100.0 / math.expm1(rate * 100.0)
    lost = [run.lost_to_nodes / run.num_node_losses for run in runs]
    # Losses during a node's start lose nothing.
    working = sum(run.work + run.lost_to_nodes for run in runs) / sum(run.paid for run in runs)
    assert np.mean(lost) == pytest.approx(expected * working, rel=0.06)


def test_losses_come_as_often_as_they_should_and_everything_is_accounted_for():
    runs = [simulate(fleet(gpus=8, num_shards=20_000, driver_deaths_per_h=0.1), seed) for seed in range(10)]
    for run in runs:
        assert run.work == pytest.approx(20_000 * 100.0, abs=1.0)
    per_node_hour = sum(run.num_node_losses for run in runs) / (sum(run.paid for run in runs) / 3600)
    assert per_node_hour == pytest.approx(0.05, rel=0.1)
    assert sum(run.num_driver_deaths for run in runs) / sum(run.hours for run in runs) == pytest.approx(0.1, rel=0.2)
    # The clock of every GPU is spent on something: what nodes that were away did not cost is 5 % an hour of 300 s.
    clock = sum(8 * run.hours * 3600 for run in runs)
    away = sum(run.num_node_losses for run in runs) * 300.0
    assert sum(map(everything, runs)) == pytest.approx(clock - away, rel=0.005)


@pytest.mark.parametrize(
    ("driver_s", "in_flight", "expected"),
    [(0.05, 1, 10.05), (0.5, 1, 16.0), (0.5, 2, 16.0), (0.05, 2, 10.0), (0.25, 2, 10.0)],
    ids=[
        "a round trip each",
        "bound by the driver",
        "bound by it with two",
        "hidden by a second shard",
        "hidden at 80 %",
    ],
)
def test_the_queue_at_the_driver_agrees_with_its_closed_form(driver_s, in_flight, expected):
    queue = DriverQueue(32, 10.0, driver_s, in_flight=in_flight, spread=0.0)
    assert queue.cycle_s() == pytest.approx(expected, rel=1e-3)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_real_run_takes_as_long_as_the_simulated_one(tmp_path):
    num_shards, shard_s = 24, 1.5
    source = write_tables(tmp_path / "in", rows=4 * num_shards, group_rows=4)
    config = stand_in_config(shard_images=4, shard_s=shard_s)
    arguments = ["run", "600", str(source), str(tmp_path / "out"), config.model_dump_json()]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_driver", *arguments],
        env={**os.environ, **plugin_environment()},
        cwd=Path.cwd(),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    commits = answer["commits_s"]
    start_s = commits[0] - answer["graph_s"] - shard_s
    spent = simulate(Fleet(1, num_shards, shard_s=shard_s, cycle_s=shard_s, pool_start_s=start_s, **CALM), seed=0)
    # Reading, committing and the driver are hidden behind the one actor's work, as the simulation has it.
    assert commits[-1] - answer["graph_s"] == pytest.approx(spent.hours * 3600, rel=0.15)
