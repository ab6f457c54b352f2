"""A benchmark's figures are medians and ratios, and its JSON has the promised keys."""

import itertools
import json
import mmap
from pathlib import Path

import pytest

from benchmarks import measurement


def test_the_median_ignores_warm_ups_and_one_outlier(monkeypatch):
    clock = itertools.accumulate(itertools.cycle([0, 1, 0, 9, 0, 1]))
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    calls = []
    assert measurement.median_seconds(lambda: calls.append(1), repeats=3, warm_ups=2) == 1
    assert len(calls) == 5


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


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a peak")
def test_the_peak_is_that_of_what_follows_the_reset():
    # Not from the heap, where pages that were freed may be used again.
    _touch(64 * 2**20)
    before = measurement.reset_peak()
    _touch(16 * 2**20)
    assert 12 * 2**20 <= measurement.peak_rss_bytes() - before <= 40 * 2**20


def _touch(num_bytes):
    with mmap.mmap(-1, num_bytes) as memory:
        memory.write(b"1" * num_bytes)


USAGE = """python -m benchmarks.some [--masks 4 8] [--kept 0.4] [--device cpu|cuda] [--part a|b …] [--points N] [--tiny]
[--bare SOURCE OUT] [--set KEY=VALUE …] [--json FILE]"""


def test_a_command_lines_options_are_those_of_its_usage():
    given = vars(measurement.options(USAGE, []))
    assert given == {
        **{"masks": [4, 8], "kept": 0.4, "device": "cpu", "part": [], "points": None, "tiny": False},
        **{"bare": None, "assignments": [], "json": None},
    }
    words = "--masks 2 --device cuda --part b a --points 7 --tiny --bare x y --set a=1 --set b=2 --json f.json"
    assert vars(measurement.options(USAGE, words.split())) == {
        **{"masks": [2], "kept": 0.4, "device": "cuda", "part": ["b", "a"], "points": 7, "tiny": True},
        **{"bare": ["x", "y"], "assignments": ["a=1", "b=2"], "json": Path("f.json")},
    }


@pytest.mark.parametrize("words", [["--device", "tpu"], ["--part", "c"], ["--points", "many"], ["--mask", "1", "x"]])
def test_what_a_usage_does_not_show_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        measurement.options(USAGE, words)
