"""Memory that runs out in a stage, really: the run stops and says what to lower, or lowers it where it may."""

from __future__ import annotations

import pytest

from store.location import RunLocation
from tests.faults.conftest import SLOW
from tests.faults.harness import prove, receipts, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

# 64 points of 8 MB where 400 MB are allowed: half of them fit, after one halving.
SHORT = ("masks.points_per_batch=64", "masks.options={sleep_s: 0.12, mb_per_point: 8, allowed_mb: 400}")


def test_memory_that_runs_out_stops_the_run_and_more_of_it_continues(cluster, source, tmp_path, tmp_path_factory):
    ended = start_driver(source, tmp_path, cluster.address, *SLOW, *SHORT).finish(code=1)
    assert "the propose stage ran out of memory on shard" in ended["text"]
    assert "masks.points_per_batch (now 64)" in ended["text"]

    start_driver(source, tmp_path, cluster.address, *SLOW, *SHORT, "placement.allow_degraded=true").finish()
    reference = tmp_path_factory.mktemp("undisturbed")
    plenty = ("masks.points_per_batch=64", "masks.options={sleep_s: 0.12}")
    start_driver(source, reference, cluster.address, *SLOW, *plenty).finish()
    how = "a limit on the address space of a process that allocates more; --allow-degraded after the stop"
    prove(tmp_path, reference, fault="out of memory in a stage", how=how)
    lowered = [receipt.degraded for receipt in receipts(RunLocation.open(str(tmp_path)))]
    assert lowered == [{"masks.points_per_batch": 32}] * 8
