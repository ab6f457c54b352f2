"""The simulation's tables: what goes into a fleet, and what comes out of its runs."""

import json

import pytest

from benchmarks import simulation
from benchmarks.simulation import Measured


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


def test_the_drivers_seconds_are_those_of_the_longest_run_and_the_plans_of_the_largest(scale_json):
    measured = Measured.read(scale_json)
    # A quarter of a second a shard, in a part of which the driver only looks for work.
    assert measured.driver_s == pytest.approx(0.05 - simulation.IDLE_SHARE * 0.25)
    assert measured.plan_s_per_image == pytest.approx(3e-5)


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
    assert "driver 40.0 ms a shard" in capsys.readouterr().out
