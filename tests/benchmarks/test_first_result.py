"""What a person waits for, against a bare Ray Data job."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.first_result import main, timed

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
