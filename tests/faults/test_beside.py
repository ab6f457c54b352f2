"""Commands beside a run that lives: `gc` takes nothing that anybody wants, `--retry-failed` waits its turn."""

from __future__ import annotations

import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.garbage import run_gc
from tests.faults.conftest import SLOW, SLOWER
from tests.faults.harness import part_digests, prove, receipts, start_driver

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
    assert not planted & part_digests(location).keys()
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
