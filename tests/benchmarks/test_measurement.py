"""A benchmark's figures are medians and ratios, and its JSON has the promised keys."""

import itertools
import json
import os
import subprocess

import pytest

from benchmarks import measurement
from benchmarks.measurement import Sample, Usage, Watched, run_watched, usage

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


def test_the_median_ignores_warm_ups_and_one_outlier(monkeypatch):
    clock = itertools.accumulate(itertools.cycle([0, 1, 0, 9, 0, 1]))
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    calls = []
    assert measurement.median_seconds(lambda: calls.append(1), repeats=3, warm_ups=2) == 1
    assert len(calls) == 5


def test_repeats_end_once_their_time_is_up_but_one_is_timed(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    calls = []
    measurement.median_seconds(lambda: calls.append(1), repeats=9, warm_ups=1, limit_s=2)
    assert len(calls) == 3
    measurement.median_seconds(lambda: calls.append(1), repeats=9, warm_ups=1, limit_s=0)
    assert len(calls) == 5


def test_a_ratio_above_one_means_ours_is_faster():
    assert measurement.Row("a", 6.0, 2.0, 0).ratio == 3.0
    assert measurement.Row("a", None, 2.0, 0).ratio is None


def test_the_json_is_a_list_of_rows_with_their_ratio(tmp_path, capsys):
    path = tmp_path / "rows.json"
    measurement.report("title", [measurement.Row("case", 3.0, 1.0, 2**20)], path)
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    assert {
        "case": "case",
        "baseline_s": 3.0,
        "ours_s": 1.0,
        "ratio": 3.0,
        "peak_rss_bytes": 2**20,
    }.items() <= row.items()
    assert "title" in capsys.readouterr().out


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


def test_a_span_shorter_than_the_period_has_the_nearest_reading():
    samples = [Sample(at, Usage(at), Usage()) for at in (1, 2, 3)]
    assert Watched({}, samples).between(2.1, 2.2) == [samples[1]]
    assert Watched({}, samples).between(1.5, 3.0) == samples[1:]


def test_a_process_has_memory_and_time():
    assert usage(os.getpid()).rss_bytes > usage(os.getpid()).private_bytes > 10_000_000
    assert usage(os.getpid()).cpu_s > 0
