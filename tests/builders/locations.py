"""Fixtures of `tests/files` and `tests/store`: a location of each kind, and an S3 server with faults."""

from __future__ import annotations

import uuid

import fsspec
import pytest

from pseudoris.files import s3_storage
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import StorageConfig
from tests.builders.fault_proxy import injecting

# Seconds where a run has minutes: a fault that is never cured must not hold a test up.
IMPATIENT = StorageConfig(read_timeout_s=2.0, patience_s=30.0)


@pytest.fixture(autouse=True)
def small_uploads(monkeypatch):
    monkeypatch.setattr(s3_storage, "MULTIPART_BYTES", 5 * 2**20)


# The modules that say what a location promises also ask it of a real server; for the others that would be minutes.
ON_S3 = ("test_location", "test_commit", "test_run_reader", "test_repair")
# What these find in a run's files does not depend on where the files are.
ON_DISK = (
    *("test_verification", "test_shard_parts", "test_records", "test_data_card", "test_run_figures"),
    *("test_plan", "test_run_records", "test_pending_work", "test_shard_tables"),
)


def pytest_generate_tests(metafunc):
    if "location" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = ["disk"] if module in ON_DISK else ["disk", "objects", *(["s3"] if module in ON_S3 else [])]
        metafunc.parametrize("location", kinds, indirect=True)


@pytest.fixture
def location(request, tmp_path):
    """A location of each kind: a folder (with a space in its path), fsspec's memory store, and a real S3 server."""
    if request.param == "disk":
        yield RunLocation.open(str(tmp_path / "a run"))
        return
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        yield RunLocation.open(f"s3://{server.new_bucket()}/a run", server.endpoint_url, IMPATIENT)
        return
    root = f"memory://run-{uuid.uuid4().hex}"
    yield RunLocation.open(root)
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


@pytest.fixture
def disk(tmp_path):
    return RunLocation.open(str(tmp_path / "a run"))


@pytest.fixture(scope="module")
def fault_proxy(s3_server):
    with injecting(s3_server.endpoint_url, seed=7) as proxy:
        yield proxy


@pytest.fixture
def proxy(fault_proxy):
    """A proxy before the S3 server; it lets all requests through until the test sets faults."""
    fault_proxy.set_faults([])
    fault_proxy.reset_counts()
    return fault_proxy


@pytest.fixture
def bucket_run(proxy, s3_bucket):
    """A run's location in a fresh bucket, behind the proxy."""
    return RunLocation.open(f"s3://{s3_bucket}/run", proxy.endpoint_url, IMPATIENT)
