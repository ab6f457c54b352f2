"""Drivers that end at any point, and the start after them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from pseudoris.pipeline.annotation import annotate
from pseudoris.schemas.run_records import HEADER_NAME
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources.planned_images import PlannedImages
from tests.builders.plain_runs import work_off
from tests.builders.runs import all_receipts, part_digests, stub_config, write_source

pytestmark = pytest.mark.ray

# A driver imports Ray and waits for processes that import torch: seconds, on a busy machine minutes.
DEADLINE_S = 300


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def undisturbed(ray_session, source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    work_off(source, out, stub_config())
    return out


def start_driver(source: Path, out: Path, die_at: str, *assignments: str) -> subprocess.Popen:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tests.builders.driver", str(source), str(out), address, die_at, *assignments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def receipts(out: Path) -> list[Path]:
    return sorted((out / "_receipts").glob("*.json"))


def wait_for_receipts(driver: subprocess.Popen, out: Path, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while len(receipts(out)) < count:
        assert driver.poll() is None, "the driver ended before it could be disturbed"
        assert time.monotonic() < deadline, "no shard was committed in time"
        time.sleep(0.02)


def _receipts(out: Path):
    return all_receipts(RunLocation.open(str(out)))


@pytest.mark.long
@pytest.mark.parametrize("die_at", ["plan", "header", "planned"])
def test_a_driver_killed_before_its_first_shard_is_followed_by_a_whole_run(die_at, source, undisturbed, tmp_path):
    driver = start_driver(source, tmp_path, die_at)
    assert driver.wait(timeout=DEADLINE_S) == -signal.SIGKILL
    assert (tmp_path / HEADER_NAME).exists() == (die_at == "planned")
    assert list((tmp_path / "_plan" / "g0001").glob("*.parquet"))

    summary = annotate(str(source), str(tmp_path), stub_config())
    assert summary.is_complete
    assert part_digests(tmp_path) == part_digests(undisturbed)


@pytest.mark.long
def test_sigterm_ends_a_start_cleanly_and_the_next_one_continues(source, tmp_path):
    slow = "masks.options={sleep_s: 0.3}"
    driver = start_driver(source, tmp_path, "never", slow)
    wait_for_receipts(driver, tmp_path, 1)
    os.kill(driver.pid, signal.SIGTERM)
    output, _ = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 0
    left = json.loads(output)
    assert left["interrupted"]
    assert 1 <= left["shards"] < 6

    summary = annotate(str(source), str(tmp_path), stub_config(slow))
    assert summary.is_complete
    assert not summary.interrupted
    assert summary.num_shards_before >= left["shards"]


def test_a_relative_source_is_the_same_from_another_folder(ray_session, tmp_path, monkeypatch):
    source = write_source(tmp_path / "photos", num_images=2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    work_off("photos", "out", stub_config())
    location = RunLocation.open(str(tmp_path / "out"))
    header = read_header(location)
    assert header.source == str(source)

    monkeypatch.chdir(tmp_path / "elsewhere")
    again = annotate("../photos", str(tmp_path / "out"), stub_config())
    assert again.num_shards_before == again.num_planned_shards
    (entry, *_) = read_shard_plan(location, header, 0)
    assert PlannedImages(location, header)(entry.shard, entry.key) == (source / entry.key).read_bytes()
