"""The endpoint of a run for clients that are given none."""

from __future__ import annotations

import hashlib
import os

import pytest

from pseudoris.pipeline.identity import announce_endpoint
from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.weight_files import weights_digest
from tests.builders.runs import stub_config


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    # Set first, so that monkeypatch takes back whatever the test leaves.
    for name in ("AWS_ENDPOINT_URL", "PSEUDORIS_ANNOUNCED_ENDPOINT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_weights_in_a_bucket_are_found_at_the_runs_endpoint(s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="sam.safetensors", Body=b"weights")
    announce_endpoint(stub_config(f"source.endpoint_url={s3_server.endpoint_url}"))
    digest = weights_digest(WeightsConfig(uri=f"s3://{s3_bucket}/sam.safetensors"))
    assert digest == hashlib.sha256(b"weights").hexdigest()


def test_an_endpoint_of_the_environment_stays(clean_environment):
    clean_environment.setenv("AWS_ENDPOINT_URL", "http://here:1")
    announce_endpoint(stub_config("source.endpoint_url=http://there:2"))
    assert os.environ["AWS_ENDPOINT_URL"] == "http://here:1"


def test_that_of_an_earlier_run_in_the_same_process_goes():
    announce_endpoint(stub_config("source.endpoint_url=http://first:1"))
    announce_endpoint(stub_config("source.endpoint_url=http://second:2"))
    assert os.environ["AWS_ENDPOINT_URL"] == "http://second:2"
    announce_endpoint(stub_config())
    assert "AWS_ENDPOINT_URL" not in os.environ
