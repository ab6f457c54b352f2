"""A bucket that fails under whole runs: for a while it costs time, and where it has become read-only that is told."""

from __future__ import annotations

import re

import pytest

from tests.builders.fault_proxy import Fault, injecting
from tests.faults.conftest import SLOW, SLOWER
from tests.faults.harness import RunLocation, num_receipts, prove, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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
