"""A benchmark's figures, its command line, the command of all of them, and that they may leave."""

from __future__ import annotations

import itertools
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest

from evidence.benchmarks import __main__ as everything
from evidence.benchmarks import measurement
from evidence.benchmarks.first_result import main, timed


def test_the_median_ignores_warm_ups_and_one_outlier(monkeypatch):
    clock = itertools.accumulate(itertools.cycle([0, 1, 0, 9, 0, 1]))
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    calls = []
    assert measurement.median_seconds(lambda: calls.append(1), repeats=3, warm_ups=2) == 1
    assert len(calls) == 5


USAGE = """python -m evidence.benchmarks.some [--masks 4 8] [--kept 0.4] [--device cpu|cuda] [--part a|b …] [--points N]
[--tiny] [--bare SOURCE OUT] [--set KEY=VALUE …] [--json FILE]"""


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


def test_every_part_writes_its_json_beside_the_others_and_a_failure_is_told_at_the_end(tmp_path, monkeypatch):
    run = Mock(side_effect=lambda name, arguments: 1 if name == "masks" else 0)
    monkeypatch.setattr(everything, "run", run)
    with pytest.raises(SystemExit, match="failed: masks"):
        everything.main(["--folder", str(tmp_path / "out")])
    given = [call.args for call in run.call_args_list]
    assert [name for name, _ in given] == list(everything.PARTS)
    for name, arguments in given:
        assert arguments == [*everything.PARTS[name], "--json", str(tmp_path / "out" / f"{name}.json")]


def test_all_benchmarks_of_the_folder_are_parts():
    assert all(find_spec(f"evidence.benchmarks.{name}") for name in everything.PARTS)
    assert {"captioner", "masks", "crops", "filter", "pipeline", "scale"} <= everything.PARTS.keys()


def test_only_tests_of_benchmarks_import_benchmarks():
    """What is tested stands without what measures its speed: a benchmark may leave, and only its own tests go too."""
    imported = re.compile(r"^\s*(?:from|import) evidence\.benchmarks\b", re.MULTILINE)
    tests = Path(__file__).parents[2]
    others = (path for path in tests.rglob("*.py") if not path.is_relative_to(tests / "evidence"))
    assert [path for path in others if imported.search(path.read_text(encoding="utf-8"))] == [], "see tests/oracles"


@pytest.mark.long
def test_a_part_is_a_process_of_its_own():
    assert everything.run("scale", ["--help"]) == 0
    assert everything.run("scale", ["--no-such-option"]) == 2


WRITES = "import pathlib, sys, time; time.sleep(0.2); pathlib.Path(sys.argv[1]).touch(); time.sleep(0.5)"


@pytest.mark.slow
def test_the_time_of_the_first_file_and_of_the_end_are_told_apart(tmp_path):
    found = timed([sys.executable, "-c", WRITES, str(tmp_path / "first")], tmp_path, "first")
    assert 0.2 <= found.first_s < found.end_s - 0.3
    assert found.peak_pss_bytes > 1_000_000


@pytest.mark.ray
@pytest.mark.long
def test_both_sides_come_to_a_result(tmp_path):
    main(["--images", "1", "--repeats", "1", "--json", str(tmp_path / "first.json")])
    (row,) = json.loads((tmp_path / "first.json").read_text())
    assert row["baseline_s"] > 0
    assert row["ours_s"] > 0
