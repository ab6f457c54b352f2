"""The endpoint of a run, and a whole run on a real S3 server that fails requests: no secret is left anywhere."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.identity import announce_endpoint
from pseudoris.primitives.errors import PseudorisError
from pseudoris.schemas.config import SourceConfig, WeightsConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.workers.checkpoints.weight_files import weights_digest
from tests.builders.fault_proxy import Fault, injecting
from tests.builders.runs import stub_config, write_source
from tests.builders.s3 import ENVIRONMENT

SECRET = "wJalrXUtnFEMI-marker-bPxRfiCY"


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


def s3_config(proxy, *assignments):
    return stub_config(f"source.endpoint_url={proxy.endpoint_url}", "placement.storage.read_timeout_s=20", *assignments)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_no_secret_reaches_the_output_a_log_or_an_error(
    ray_session, s3_server, s3_bucket, proxy, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    caplog.set_level(logging.DEBUG, logger="pseudoris.store")
    caplog.set_level(logging.DEBUG, logger="pseudoris.pipeline")
    uri = s3_server.put_folder(write_source(tmp_path / "in", num_images=6), s3_bucket, "in")
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
    written = s3_server.objects(s3_bucket, "out/")
    assert {"_run.json", "_plan", "_receipts", "_manifest", "failures"} <= {key.partition("/")[0] for key in written}
    for path in Path(ray_session).rglob("*"):
        written[str(path)] = path.read_bytes() if path.is_file() else b""
    assert any("worker-" in name for name in written)
    assert not [name for name, data in written.items() if any(secret.encode() in data for secret in secrets)]


def chain_of(error: BaseException | None) -> list[str]:
    return [] if error is None else [repr(error), *chain_of(error.__cause__ or error.__context__)]


def test_weights_in_a_bucket_are_found_at_the_runs_endpoint(s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="sam.safetensors", Body=b"weights")
    announce_endpoint(SourceConfig(endpoint_url=s3_server.endpoint_url))
    assert weights_digest(WeightsConfig(uri=f"s3://{s3_bucket}/sam.safetensors")) == sha256_hex(b"weights")


def test_the_endpoint_of_an_earlier_run_in_the_same_process_goes_and_that_of_the_environment_stays(monkeypatch):
    for announced in ("http://first:1", "http://second:2"):
        announce_endpoint(SourceConfig(endpoint_url=announced))
        assert os.environ["AWS_ENDPOINT_URL"] == announced
    announce_endpoint(SourceConfig())
    assert "AWS_ENDPOINT_URL" not in os.environ
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:1")
    announce_endpoint(SourceConfig(endpoint_url="http://there:2"))
    assert os.environ["AWS_ENDPOINT_URL"] == "http://here:1"
