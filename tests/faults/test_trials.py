"""The trials that kill commands: one of the cheapest kind, and one whose second start loses a row."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.report import trial_table
from tests.faults.trials import Command, Result, commands, finished, run_result, try_command

pytestmark = pytest.mark.slow

# The second start takes a row from a table, as a command that resumes wrongly would.
_LOSES_A_ROW = """
import sys, time
from pathlib import Path
import pyarrow.parquet as pq

begun, (part, *_) = Path("run/begun"), sorted(Path("run/images").glob("*.parquet"))
if begun.exists():
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)
begun.touch()
time.sleep(2)
"""


def test_a_killed_command_that_is_given_again_ends_as_undisturbed(stub_engines, tmp_path):
    refilter = next(each for each in commands() if each.tried == "`refilter`")
    # At its first receipt of 30, an event: of a command this short a moment is easily missed.
    row = try_command(replace(refilter, aim="_receipts/*"), tmp_path, 1, random.Random(5))
    assert (row["tried"], row["times"], row["ok"]) == ("`refilter` killed", 1, True), row
    assert row["outcome"].startswith("as undisturbed: ")


def test_a_row_that_is_lost_is_told(stub_engines, tmp_path):
    def result(out: Path) -> Result:
        return {**run_result(out), "begun": (out / "begun").exists()}

    command = Command("loser", (), lambda at: finished(at, 6), "run", result, program=("-c", _LOSES_A_ROW))
    row = try_command(command, tmp_path, 1, random.Random(5))
    assert not row["ok"]
    assert "LOST image" in row["outcome"]
    assert "FAILED: DIFFERS" in trial_table([row])
