"""What a run costs at scale: memory and the driver's time, by hand and for real."""

from __future__ import annotations

import json
import subprocess

import pytest

from evidence.benchmarks import scale
from evidence.benchmarks.process_watch import Sample, Usage, Watched, run_watched
from evidence.benchmarks.scale import cost_of


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
