"""A whole run on a real S3 server that fails requests: the same bytes as on a disk, and no secret anywhere."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from pseudoris.pipeline.annotation import annotate
from pseudoris.schemas.errors import PseudorisError
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import list_receipts
from tests.builders.fault_proxy import Fault, injecting
from tests.builders.runs import part_digests, stub_config, write_source
from tests.builders.s3 import ENVIRONMENT

SECRET = "wJalrXUtnFEMI-marker-bPxRfiCY"
# What a busy store does, a tenth of all requests in all.
BUSY = [
    Fault("slow_down", rate=0.06),
    Fault("conflict_done", rate=0.05, operation="PutObject", is_conditional=True),
    Fault("reset", rate=0.02),
    Fault("reset_done", rate=0.02),
    Fault("cut_body", rate=0.02, operation="GetObject"),
]


@pytest.fixture(autouse=True)
def endpoint_of_each_test_alone(monkeypatch):
    # Set first, so that monkeypatch takes back what the run announces.
    for name in ("AWS_ENDPOINT_URL", "PSEUDORIS_ANNOUNCED_ENDPOINT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def proxy(s3_server):
    with injecting(s3_server.endpoint_url, seed=5) as proxy:
        yield proxy


def upload(folder, server, bucket) -> str:
    """Put a folder's files into a bucket, and return the uri of its copy."""
    client = server.client()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"in/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{bucket}/in"


def objects(server, bucket, prefix="") -> dict[str, bytes]:
    """Return all objects of a bucket below a prefix."""
    client, found = server.client(), {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            found[entry["Key"]] = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
    return found


def s3_config(proxy, *assignments):
    return stub_config(f"source.endpoint_url={proxy.endpoint_url}", "placement.storage.read_timeout_s=20", *assignments)


def digests_in(server, bucket) -> dict[str, str]:
    """Return the sha256 of every part of the run in a bucket, as `part_digests` does of one on a disk."""
    return {
        key.removeprefix("out/"): hashlib.sha256(data).hexdigest()
        for key, data in objects(server, bucket, "out/").items()
        if key.split("/")[1] in SCHEMAS
    }


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_a_busy_store_gives_the_bytes_of_a_run_on_a_disk(ray_session, s3_server, s3_bucket, proxy, tmp_path):
    source = write_source(tmp_path / "in", num_images=18)
    calm = annotate(str(source), str(tmp_path / "out"), stub_config())
    uri = upload(source, s3_server, s3_bucket)
    proxy.set_faults(BUSY)
    out = f"s3://{s3_bucket}/out"
    summary = annotate(uri, out, s3_config(proxy))
    assert summary.is_complete
    assert summary.totals.images == calm.totals.images
    assert summary.totals.reasons == calm.totals.reasons
    assert digests_in(s3_server, s3_bucket) == part_digests(tmp_path / "out")
    assert sum(proxy.hits.values()) > 10
    location = RunLocation.open(out, proxy.endpoint_url)
    assert verify_run(location).is_clean
    assert len(list_receipts(location)) == summary.num_planned_shards


@pytest.mark.ray
@pytest.mark.slow
def test_no_secret_reaches_the_output_a_log_or_an_error(
    ray_session, s3_server, s3_bucket, proxy, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    caplog.set_level(logging.DEBUG, logger="pseudoris.store")
    caplog.set_level(logging.DEBUG, logger="pseudoris.pipeline")
    uri = upload(write_source(tmp_path / "in", num_images=6), s3_server, s3_bucket)
    out = f"s3://{s3_bucket}/out"
    proxy.set_faults([Fault("slow_down", rate=0.2)])
    # Its own patience makes clients of its own, which read the environment as it is now.
    assert annotate(uri, out, s3_config(proxy, "placement.storage.read_timeout_s=19")).is_complete
    texts = [caplog.text]
    for fault in (Fault("denied"), Fault("slow_down"), Fault("reset")):
        proxy.set_faults([fault])
        with pytest.raises(PseudorisError) as caught:
            annotate(uri, out, s3_config(proxy, "placement.storage.patience_s=1"))
        texts += [str(caught.getrepr(style="long")), *chain_of(caught.value)]
    texts.append(caplog.text)
    # Workers and tasks were started with another one than this process has now.
    secrets = (SECRET, ENVIRONMENT["AWS_SECRET_ACCESS_KEY"])
    assert not [text for text in texts if any(secret in text for secret in secrets)]
    written = objects(s3_server, s3_bucket, "out/")
    assert {"_run.json", "_plan", "_receipts", "_manifest", "failures"} <= {key.split("/")[1] for key in written}
    for path in Path(ray_session).rglob("*"):
        written[str(path)] = path.read_bytes() if path.is_file() else b""
    assert any("worker-" in name for name in written)
    assert not [name for name, data in written.items() if any(secret.encode() in data for secret in secrets)]


def chain_of(error: BaseException | None) -> list[str]:
    """Return the texts of an error and of all that it came from."""
    return [] if error is None else [repr(error), *chain_of(error.__cause__ or error.__context__)]
