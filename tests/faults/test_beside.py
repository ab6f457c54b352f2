"""What happens beside a run that lives: `gc`, second starts, late writers, a disk that fills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.store.runs.garbage import run_gc
from tests.faults.conftest import SLOW, SLOWER
from tests.faults.harness import ROOT, num_receipts, prove, receipts, start_driver
from tests.store.builders import parts

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.long
def test_gc_beside_a_live_run_takes_what_has_lost_and_nothing_else(cluster, source, undisturbed, tmp_path):
    location = RunLocation.open(str(tmp_path))
    driver = start_driver(source, tmp_path, cluster.address, *SLOWER)
    driver.wait_for_commits(1)
    times, planted, lost = 0, set[str](), list[str]()
    while driver.process.poll() is None:
        # What a writer leaves that came too late, of each shard as soon as it is committed.
        for receipt in receipts(location):
            path = f"masks/shard-{receipt.shard:08d}.g0-00000000.parquet"
            if path not in planted:
                location.put_part(path, b"late")
                planted.add(path)
        report = run_gc(location)
        lost += report.lost
        times += 1
        assert report.superseded == ()
    driver.finish()
    lost += run_gc(location).lost
    assert set(lost) <= planted
    # The run's own end collects too.
    assert not planted & parts(location).keys()
    assert lost
    prove(tmp_path, undisturbed, fault="gc beside a live run", how="gc in a loop, with late parts to take", tries=times)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "fault", "how"),
    [
        ((), "two drivers on one output", "a second start while the first one works"),
        (
            ("--retry-failed",),
            "--retry-failed beside a live run",
            "a start with --retry-failed while the first one works, and again after it",
        ),
    ],
)
def test_a_second_start_says_who_holds_the_run_and_changes_nothing(
    cluster, source, undisturbed, tmp_path, words, fault, how
):
    slower = tuple(word.replace("0.12", "2.5") for word in SLOW)
    first = start_driver(source, tmp_path, cluster.address, *slower)
    first.wait_for_commits(1)
    second = start_driver(source, tmp_path, cluster.address, *slower, *words).finish(code=1)
    assert "is working on" in second["text"]
    assert f"process {first.process.pid}" in second["text"]
    first.finish()
    # What was broken still is: no new generation.
    assert start_driver(source, tmp_path, cluster.address, *slower, *words).finish()["shards"] == 8
    prove(tmp_path, undisturbed, fault=fault, how=how)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a size that a test sets by mounting it anew."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_fills_ends_the_run_with_its_name_and_more_room_continues_it(
    cluster, source, undisturbed, small_disk
):
    out = small_disk / "out"
    ended = start_driver(source, out, cluster.address, *SLOW).finish(code=1)
    assert f"{small_disk}" in ended["text"]
    assert "the disk is full: free space or name another output" in ended["text"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    start_driver(source, out, cluster.address, *SLOW).finish()
    prove(out, undisturbed, fault="the disk is full", how="a file system of 80 KiB, enlarged after the run has stopped")


@pytest.mark.long
@pytest.mark.parametrize(
    ("assignments", "outcome"), [((), "won"), (("compute.seed=7",), "lost")], ids=["same-bytes", "other-bytes"]
)
def test_a_writer_that_comes_after_the_commit_changes_nothing(
    cluster, source, undisturbed, tmp_path, assignments, outcome
):
    first = start_driver(source, tmp_path, cluster.address, *SLOW)
    first.wait_for_commits(1)
    first.kill()
    location = RunLocation.open(str(tmp_path))
    left = next(shard for shard in range(8) if not location.exists(f"_receipts/shard-{shard:08d}.g0.json"))
    command = [sys.executable, "-m", "tests.faults.late_writer", str(tmp_path), str(left), *assignments]
    late = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    os.waitid(os.P_PID, late.pid, os.WSTOPPED | os.WNOWAIT)
    start_driver(source, tmp_path, cluster.address, *SLOW).finish()
    assert num_receipts(location) == 8
    os.kill(late.pid, signal.SIGCONT)
    printed, _ = late.communicate(timeout=120)
    assert printed.strip() == outcome
    how = "a writer stopped before its receipt, woken after another's"
    prove(
        tmp_path, undisturbed, fault="a late writer", how=f"{how} ({'the same' if outcome == 'won' else 'other'} bytes)"
    )
