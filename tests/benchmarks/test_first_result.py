"""What a person waits for, against a bare Ray Data job."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.first_result import FirstResult, main, row_of, timed
from benchmarks.process_watch import ProcessGroup

WRITES = "import pathlib, sys, time; time.sleep(0.2); pathlib.Path(sys.argv[1]).touch(); time.sleep(0.5)"


@pytest.mark.slow
def test_the_time_of_the_first_file_and_of_the_end_are_told_apart(tmp_path):
    found = timed([sys.executable, "-c", WRITES, str(tmp_path / "first")], tmp_path, "first")
    assert 0.2 <= found.first_s < found.end_s - 0.3
    assert found.peak_pss_bytes > 1_000_000


def test_the_row_has_medians_and_their_ratio():
    small, large = (ProcessGroup("raylet", 1, 0.5, 1.0, size) for size in (10, 20))
    pairs = [
        (FirstResult(floor, 9.0, (small,)), FirstResult(ours, 12.0, (small, large)))
        for floor, ours in [(4, 5), (9, 99), (5, 6)]
    ]
    row = row_of(pairs, "case")
    assert (row["baseline_s"], row["ours_s"], row["ratio"], row["peak_pss_bytes"]) == (5, 6, 1.2, 30)
    assert [group["pss_bytes"] for group in row["ours_processes"]] == [10, 20]


@pytest.mark.ray
@pytest.mark.long
def test_both_sides_come_to_a_result(tmp_path):
    main(["--images", "1", "--repeats", "1", "--json", str(tmp_path / "first.json")])
    (row,) = json.loads((tmp_path / "first.json").read_text())
    assert row["baseline_s"] > 0
    assert row["ours_s"] > 0
