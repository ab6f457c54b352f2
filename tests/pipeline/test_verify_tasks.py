"""Parts looked into by tasks: the proof of one process, whoever has damaged what."""

from __future__ import annotations

import pytest

from pseudoris.pipeline import fan_out
from pseudoris.pipeline.fan_out import checking_on_cluster
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.placement import PoolConfig, StorageConfig
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from tests.builders.fault_proxy import Fault, injecting
from tests.store.builders import commit, make_entries, start_run

pytestmark = pytest.mark.ray

NUM_SHARDS = 11
POOL = PoolConfig(num_cpus=0.25)


@pytest.fixture
def run(tmp_path):
    """Return a run of eleven shards, one of them not committed and two of them damaged."""
    location = RunLocation.open(str(tmp_path))
    header = start_run(location, make_entries(NUM_SHARDS, 2))
    commit(location, header, *range(NUM_SHARDS - 1))
    for table, shard in (("masks", 3), ("images", 7)):
        (part,) = [file.name for file in location.list(table) if file.name.startswith(f"shard-{shard:08d}")]
        data = bytearray(location.read_bytes(f"{table}/{part}"))
        data[len(data) // 2] ^= 1
        location.replace(f"{table}/{part}", bytes(data))
    return location


@pytest.mark.parametrize("in_flight", [1, 2, 256])
@pytest.mark.parametrize("options", [{}, {"quick": True}, {"sample": 4}], ids=str)
def test_the_report_is_that_of_one_process(ray_session, run, monkeypatch, in_flight, options):
    monkeypatch.setattr(fan_out, "_TASKS_IN_FLIGHT", in_flight)
    here = verify_run(run, **options)
    assert not here.is_clean
    seen = []
    there = verify_run(
        run, **options, check=checking_on_cluster(POOL), progress=lambda done, total: seen.append((done, total))
    )
    assert there == here
    assert seen[-1] == (NUM_SHARDS, NUM_SHARDS)


@pytest.mark.parametrize(("kind", "error"), [("denied", ConfigError), ("slow_down", TransientError)])
def test_what_storage_refuses_to_a_task_is_told_as_what_it_is(ray_session, s3_server, s3_bucket, kind, error):
    with injecting(s3_server.endpoint_url) as proxy:
        location = RunLocation.open(f"s3://{s3_bucket}/run", proxy.endpoint_url, StorageConfig(patience_s=2.0))
        commit(location, start_run(location, make_entries(2, 2)), 0, 1)
        proxy.set_faults([Fault(kind, operation="GetObject", key="masks/")])
        with pytest.raises(error, match=f"s3://{s3_bucket}/run/masks/"):
            verify_run(location, check=checking_on_cluster(POOL))
