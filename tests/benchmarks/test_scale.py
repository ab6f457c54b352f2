"""What a run costs at scale: a simulated fleet, growth, memory and the driver's time, by hand and for real."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import growth, scale, simulation
from benchmarks.fleet import DriverQueue, Fleet, simulate
from benchmarks.growth import Curve, exponent, plot
from benchmarks.growth import _curve_of as curve_of
from benchmarks.memory import _driver_row
from benchmarks.process_watch import Sample, Usage, Watched, run_watched
from benchmarks.scale import cost_of, plugin_environment, stand_in_config, write_tables
from benchmarks.simulation import Measured

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
    ids=["a round trip each", "bound by the driver", "bound by it with two", "hidden by a second", "hidden at 80 %"],
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


@pytest.fixture
def scale_json(tmp_path):
    path = tmp_path / "scale.json"
    rows = [scale_row(2_000, 900, driver_s=0.05, plan_s=1.0), scale_row(100_000, 100, driver_s=0.5, plan_s=3.0)]
    path.write_text(json.dumps(rows))
    return path


def scale_row(rows: int, committed: int, *, driver_s: float, plan_s: float, bare_s: float = 0.02) -> dict[str, float]:
    return {
        "rows": rows,
        "committed_shards": committed,
        "overhead_s_per_shard": 0.2,
        "shard_s": 0.05,
        "driver_cpu_s_per_shard": driver_s,
        "bare_driver_cpu_s_per_shard": bare_s,
        "plan_s": plan_s,
    }


def test_a_run_costs_the_driver_no_less_than_bare_ray_data(tmp_path):
    path = tmp_path / "scale.json"
    path.write_text(json.dumps([scale_row(2_000, 900, driver_s=0.01, plan_s=1.0)]))
    assert Measured.read(path).driver_s == 0.02


def test_the_command_writes_a_row_a_case_and_a_plot(scale_json, tmp_path, capsys):
    table, plot = tmp_path / "rows.json", tmp_path / "plot.svg"
    few = ["--gpus", "8", "64", "--images", "100000", "--images-per-s", "1", "--shard-images", "64", "256"]
    simulation.main(["--scale", str(scale_json), "--repeats", "2", *few, "--json", str(table), "--plot", str(plot)])
    rows = json.loads(table.read_text())
    assert len(rows) == 2 * 2 * 2
    assert {row["placement"] for row in rows} == {"fused", "staged"}
    drawn = plot.read_text()
    assert drawn.startswith("<svg")
    # Two panels, each with two lines for the one rate.
    assert drawn.count("<polyline") == 4
    assert "64 GPUs, 100,000 images" in drawn
    # A quarter of a second a shard, in a part of which the driver only looks for work.
    assert "driver 40.0 ms a shard" in capsys.readouterr().out
    assert Measured.read(scale_json).plan_s_per_image == pytest.approx(3e-5)


def watched(commits, *, rss, cpu_s) -> Watched:
    """A driver of `rss` MB and `cpu_s` at each second from 0; Ray's head is half of both."""
    samples = [
        Sample(float(at), Usage(size * 10**6, cpu), Usage(size * 10**6 // 2, cpu / 2))
        for at, (size, cpu) in enumerate(zip(rss, cpu_s, strict=True))
    ]
    return Watched({"commits_s": commits, "start_s": 1.0, "graph_s": 2.0, "end_s": 9.0}, samples)


def test_costs_are_those_of_the_span_from_the_first_commit_to_the_last():
    commits = [4.0 + 0.1 * number for number in range(41)]
    cost = cost_of(
        watched(commits, rss=[90, 100, 110, 150, 200, 201, 202, 203, 204, 190], cpu_s=range(10)), wait_s=0.06
    )
    assert cost.committed_shards == 41
    assert cost.pool_start_s == pytest.approx(2.0)
    assert cost.overhead_s_per_shard == pytest.approx(0.04)
    assert cost.driver_cpu_s_per_shard == pytest.approx(4 / 40)
    assert cost.head_cpu_s_per_shard == pytest.approx(2 / 40)
    assert (cost.driver_start_rss_bytes, cost.driver_first_rss_bytes) == (100 * 10**6, 200 * 10**6)
    assert cost.driver_peak_rss_bytes == 204 * 10**6
    assert cost.driver_growth_bytes_per_1000_shards == pytest.approx(4e6 / 40 * 1000)
    assert cost.head_growth_bytes_per_1000_shards == pytest.approx(2e6 / 40 * 1000)
    assert cost.end_s == pytest.approx(1.0)


def test_every_pair_is_measured_and_what_is_done_is_on_disk_before_the_next(tmp_path, monkeypatch, capsys):
    def measure(folder, *, rows, shard_images, shard_s, work_s):
        on_disk.append(len(json.loads(path.read_text())) if path.exists() else 0)
        return {"rows": rows, "shards": rows // shard_images, "plan_s": 0.5, "driver_peak_rss_bytes": 10**8}

    path, on_disk = tmp_path / "scale.json", []
    monkeypatch.setattr(scale, "measure", measure)
    scale.main(["--rows", "100", "200", "--shard-images", "10", "20", "--json", str(path)])
    rows = json.loads(path.read_text())
    assert [(row["rows"], row["shards"]) for row in rows] == [(100, 10), (100, 5), (200, 20), (200, 10)]
    assert on_disk == [0, 1, 2, 3]
    assert "100.0 MB" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_small_run_commits_every_row_and_its_figures_are_of_the_order_they_should_be(tmp_path):
    path = tmp_path / "scale.json"
    scale.main(["--rows", "60", "--shard-images", "5", "--folder", str(tmp_path), "--json", str(path)])
    (row,) = json.loads(path.read_text())
    assert (row["rows"], row["shards"], row["committed_shards"], row["bare_committed_shards"]) == (60, 12, 12, 12)
    assert 0 < row["plan_s"] < 60
    assert row["overhead_s_per_shard"] > row["bare_overhead_s_per_shard"] > 0
    for side in ("", "bare_"):
        assert 50e6 < row[f"{side}driver_start_rss_bytes"] <= row[f"{side}driver_peak_rss_bytes"] < 2e9
    assert list(tmp_path.iterdir()) == [path]


MB = 1_000_000


def row(case: str, *, once: int, a_shard: float):
    """A hundred shards, one a second: `once` bytes are taken in the warm-up, then `a_shard` each."""
    samples = [
        Sample(
            float(second), Usage(private_bytes=100 * MB + (once if second > 10 else 0) + int(a_shard * second)), Usage()
        )
        for second in range(100)
    ]
    answer = {"commits_s": [float(second) for second in range(100)]}
    return _driver_row(case, Watched(answer, samples), rows=400)


def test_growth_is_the_slope_after_the_warm_up_and_what_is_taken_once_stands_apart():
    found = row("driver", once=30 * MB, a_shard=5_000.0)
    assert found["growth_bytes_per_1000_shards"] == pytest.approx(5 * MB, rel=1e-6)
    assert found["warm_up_bytes"] == pytest.approx(30 * MB, rel=0.01)
    assert found["peak_bytes"] == 130 * MB + 5_000 * 99


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found_whatever_the_small_sizes_cost(power):
    sizes = (1, 2, 4, 8, 16, 32)
    assert exponent(sizes, [100.0, 100.0, 100.0, *(3 * size**power for size in sizes[3:])]) == pytest.approx(power)


def test_a_run_is_halved_from_its_end_and_has_the_highest_memory_and_all_cpu_seconds_until_then():
    read = [(0, 1.0, 1.0, 5), (1, 1.5, 2.0, 5), (3, 2.0, 7.0, 9), (8, 2.5, 6.0, 7)]
    samples = [
        Sample(at, Usage(cpu_s=driver_s, private_bytes=size), Usage(cpu_s=0.5), Usage(cpu_s=workers_s, private_bytes=1))
        for at, driver_s, workers_s, size in read
    ]
    watched = Watched({"start_s": 0, "commits_s": [2, 4, 6, 9], "num_images": 8}, samples)
    curve = curve_of("a run", watched)
    # A worker has ended before the last reading.
    assert (curve.sizes, curve.seconds, curve.bytes) == ((2, 4, 8), (1.5, 7.0, 7.0), (6, 10, 10))
    drawn = plot([curve])
    assert "a run: 0.00" in drawn
    assert drawn.count("<polyline") == 1


def test_a_curve_replaces_its_own_row_and_leaves_the_others(tmp_path, monkeypatch):
    def curve(case, seconds):
        return Curve(case, "images", (1, 2, 4), (1.0, 2.0, seconds), (0, 0, 0), ("a=1",))

    path = tmp_path / "growth.json"
    for curves in ([curve("caption", 2.0), curve("filter", 3.0)], [curve("caption", 4.0)]):
        monkeypatch.setattr(growth, "curves_of", mock.Mock(return_value=curves))
        growth.main(["--json", str(path)])
    assert [(row["case"], row["seconds"][2]) for row in json.loads(path.read_text())] == [("caption", 4), ("filter", 3)]


GROWING = """
import json, time
start = time.monotonic()
time.sleep(0.5)
held = bytearray(150_000_000)
grown = time.monotonic()
while time.process_time() < 1.0:
    pass
time.sleep(0.3)
print("talk before the answer")
print(json.dumps({"start_s": start, "grown_s": grown, "end_s": time.monotonic()}))
"""


@pytest.mark.slow
def test_a_process_is_seen_to_grow_and_to_work(tmp_path):
    (tmp_path / "growing.py").write_text(GROWING)
    watched = run_watched("growing", [], {"PYTHONPATH": str(tmp_path)})
    before = watched.between(watched.answer["start_s"], watched.answer["start_s"] + 0.4)
    after = watched.between(watched.answer["grown_s"], watched.answer["end_s"])
    assert after[-1].driver.rss_bytes - before[0].driver.rss_bytes == pytest.approx(150e6, rel=0.1)
    assert after[-1].driver.cpu_s == pytest.approx(1.0, abs=0.3)
    assert after[-1].head == Usage()


def test_a_process_that_fails_is_an_error(tmp_path):
    (tmp_path / "failing.py").write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        run_watched("failing", [], {"PYTHONPATH": str(tmp_path)})
