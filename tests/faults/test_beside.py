"""What happens beside a run that lives: `gc`, second starts, late writers, a disk that fills, a bucket that fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.store.runs.garbage import run_gc
from tests.builders.fault_proxy import Fault, injecting
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


TROUBLES = {
    "503": ("503 to a fifth of all requests", (Fault("slow_down", rate=0.2),)),
    "timeouts": (
        "no answer to one request in fifty, half of them carried out",
        (Fault("hang", rate=0.01, seconds=30.0), Fault("hang_done", rate=0.01, seconds=30.0)),
    ),
    "resets": (
        "a fifth of all connections reset, half of them after the work",
        (Fault("reset", rate=0.1), Fault("reset_done", rate=0.1)),
    ),
    "409": (
        "409 to half of all conditional creations, half of them carried out",
        (Fault("conflict", rate=0.25), Fault("conflict_done", rate=0.25)),
    ),
    "doubled requests": (
        "a tenth of all requests carried out twice, answered as the second time",
        (Fault("doubled", rate=0.1),),
    ),
    "slow reads": (
        "bodies that take a second, or break off in the middle",
        (Fault("slow_body", rate=0.3, seconds=1.0), Fault("cut_body", rate=0.2)),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_bucket_that_fails_for_a_while_costs_time_alone(cluster, source, undisturbed, s3_server, s3_bucket, trouble):
    how, faults = TROUBLES[trouble]
    out = f"s3://{s3_bucket}/out"
    with injecting(s3_server.endpoint_url, faults) as proxy:
        endpoint = (f"source.endpoint_url={proxy.endpoint_url}", "placement.storage.read_timeout_s=5")
        left = start_driver(source, out, cluster.address, *SLOW, *endpoint).finish()
        assert sum(proxy.hits.values()) > 0
    assert left["shards"] == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
        prove(out, undisturbed, fault=f"the bucket: {trouble}", how=how)


@pytest.mark.long
@pytest.mark.parametrize(
    ("denied", "fault", "how"),
    [
        ("PutObject|DeleteObject|CreateMultipartUpload", "read-only", "403 to all writes"),
        ("", "no rights", "403 to every request, those to SOURCE too,"),
    ],
)
def test_rights_that_end_in_the_midst_of_a_run_end_it_with_the_remedy(
    cluster, source, undisturbed, s3_server, s3_bucket, monkeypatch, denied, fault, how
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    images, out = s3_server.put_folder(source, s3_bucket, "in"), f"s3://{s3_bucket}/out"
    with injecting(s3_server.endpoint_url) as proxy:
        words = (images, out, cluster.address, *SLOWER, f"source.endpoint_url={proxy.endpoint_url}")
        driver = start_driver(*words)
        driver.wait_for_commits(2)
        proxy.set_faults([Fault("denied", operation=denied)])
        ended = driver.finish(code=1)
        before = num_receipts(RunLocation.open(out))
        assert 2 <= before < 8
        assert re.search("ConfigError: .* access is denied: grant this user .*; renew credentials", ended["text"])
        proxy.set_faults([])
        left = start_driver(*words).finish()
    assert left["shards_before"] == before
    prove(out, undisturbed, fault=f"the bucket: {fault}", how=f"{how} in the midst of a run, then rights again")
