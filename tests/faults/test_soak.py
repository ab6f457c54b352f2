"""A short form of `make soak`, with the same proof at its end; and of the trials that kill commands."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders.plain_runs import work_off
from tests.builders.runs import stub_config
from tests.faults.report import read_record, soak_table, trial_table
from tests.faults.soak import SETTINGS_OF_ALL, soak
from tests.faults.soak_faults import Kind, kill_driver
from tests.faults.trials import Command, Result, commands, finished, run_result, try_command

pytestmark = pytest.mark.slow


@pytest.mark.ray
def test_a_run_under_faults_at_random_loses_nothing_and_doubles_nothing(stub_engines, s3_credentials, tmp_path):
    began = time.monotonic()
    record = tmp_path / "soak.jsonl"
    soak(
        record,
        tmp_path,
        max_faults=1,
        num_images=60,
        faults_a_run=6,
        # Without the image that kills its process, whose trial takes half a minute.
        words=(*SETTINGS_OF_ALL, "masks.options={sleep_s: 0.02}"),
        # None that waits for minutes.
        dear=[Kind("the driver was killed", kill_driver, ("bucket",))],
        # Without Ray: a third of the time.
        annotate_undisturbed=lambda source, out, words: work_off(source, out, stub_config(*words)),
        say=lambda text: print(f"{time.monotonic() - began:6.1f} s {text}"),
    )
    (row,) = read_record(record)
    assert row["faults"] >= 3
    assert f"| all | {row['faults']} | 1 |" in soak_table([row])


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


@pytest.mark.long
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
