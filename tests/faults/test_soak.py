"""A short form of `make soak`: one run under faults at random, and the same proof at its end."""

from __future__ import annotations

import time

import pytest

from tests.builders.plain_runs import work_off
from tests.builders.runs import stub_config
from tests.faults.report import read_record, soak_table
from tests.faults.soak import SETTINGS_OF_ALL, soak
from tests.faults.soak_faults import Kind, kill_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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
