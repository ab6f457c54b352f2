"""A run's location on a real S3 server behind a proxy that fails requests: commits, resumes, garbage."""

from __future__ import annotations

import logging
import time

import pytest

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.garbage import TEMPORARY_AGE_S, remove_run, run_gc
from pseudoris.store.runs.manifest import cached_receipts, write_manifest
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import list_receipts, read_receipt
from tests.builders.fault_proxy import Fault
from tests.store.builders import commit, make_shard, start_run

LARGE = bytes(11 * 2**20)
PART = "masks/shard-00000000.g0-00000000.parquet"


def uploads_after_a_failed_put(bucket_run, proxy):
    """Leave an unfinished upload as a killed writer does, and return those that are there."""
    limits = StorageConfig(patience_s=1.5)
    hasty = RunLocation.open(bucket_run.root, proxy.endpoint_url, limits)
    proxy.set_faults([Fault("slow_down", operation="UploadPart|AbortMultipartUpload")])
    with pytest.raises(TransientError, match="cannot write"):
        hasty.put_part(PART, LARGE)
    proxy.set_faults([])
    return list(bucket_run.list_uploads())


def test_a_denied_bucket_is_told_before_work_starts(bucket_run, proxy):
    for denied in ("PutObject", "PutObject|DeleteObject"):
        proxy.set_faults([Fault("denied", operation=denied)])
        with pytest.raises(ConfigError, match=r"cannot create s3://.*: access is denied: grant this user"):
            bucket_run.probe()


def test_a_store_without_conditional_writes_is_told_at_once(bucket_run, proxy):
    proxy.set_faults([Fault("not_implemented", is_conditional=True)])
    with pytest.raises(ConfigError, match="does not support conditional writes"):
        bucket_run.probe()
    assert proxy.hits["not_implemented"] == 1


def test_a_store_that_refuses_checksums_is_written_to(bucket_run, proxy):
    proxy.set_faults([Fault("not_implemented", header="x-amz-(checksum-.*|sdk-checksum-.*|trailer)")])
    bucket_run.probe()
    bucket_run.put_part(PART, LARGE)
    assert bucket_run.read_bytes(PART) == LARGE
    assert not proxy.hits


def test_a_bucket_that_is_not_there_is_told_before_work_starts(proxy):
    with pytest.raises(ConfigError, match="there is no such bucket"):
        RunLocation.open("s3://no-such-bucket/run", proxy.endpoint_url).probe()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conflict_done", "reset_done", "slow_down"])
def test_a_commit_that_meets_a_fault_at_its_receipt_has_won(bucket_run, proxy, kind, caplog):
    header = start_run(bucket_run)
    proxy.set_faults([Fault(kind, times=1, operation="PutObject", key="_receipts/")])
    entries = read_shard_plan(bucket_run, header, 0)
    won = commit_shard(
        bucket_run,
        make_shard(entries),
        planned_ids=[entry.image_id for entry in entries],
        embed_images=False,
        provenance=Provenance(header_sha256=header.sha256),
    )
    assert proxy.hits[kind] == 1
    assert won == read_receipt(bucket_run, 0, 0)
    assert "Another writer" not in caplog.text
    assert list_receipts(bucket_run) == {0: 0}


@pytest.mark.slow
def test_a_run_whose_every_request_may_fail_verifies(bucket_run, proxy):
    proxy.set_faults([Fault(kind, rate=0.05) for kind in ("slow_down", "reset", "reset_done", "internal_error")])
    header = start_run(bucket_run)
    for shard in range(header.num_shards):
        commit(bucket_run, header, shard)
    write_manifest(bucket_run)
    assert verify_run(bucket_run).is_clean
    assert sum(proxy.hits.values()) > 5


def test_a_resume_lists_receipts_by_pages_and_reads_the_manifest_alone(bucket_run, proxy):
    header = start_run(bucket_run)
    for shard in range(header.num_shards):
        commit(bucket_run, header, shard)
    write_manifest(bucket_run)
    proxy.reset_counts()
    assert len(list(cached_receipts(bucket_run))) == header.num_shards
    # A page of receipts, a page of manifests, a page of extensions of the plan; no receipt is read.
    assert proxy.counts["ListObjectsV2"] == 3
    assert not [key for operation, key in proxy.requests if operation == "GetObject" and "_receipts/" in key]
    assert proxy.counts["HeadObject"] == 0


@pytest.mark.long
def test_gc_gives_up_old_uploads_and_leaves_young_ones(bucket_run, proxy):
    start_run(bucket_run)
    (upload,) = uploads_after_a_failed_put(bucket_run, proxy)
    assert run_gc(bucket_run, now_s=upload.started_s + 1).num_uploads == 0
    assert list(bucket_run.list_uploads()) == [upload]
    assert run_gc(bucket_run, now_s=upload.started_s + TEMPORARY_AGE_S + 1).num_uploads == 1
    assert list(bucket_run.list_uploads()) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["denied", "not_implemented"])
def test_gc_and_removal_go_on_where_uploads_may_not_be_listed(bucket_run, proxy, caplog, fault):
    start_run(bucket_run)
    proxy.set_faults([Fault(fault, operation="ListMultipartUploads")])
    with caplog.at_level(logging.WARNING):
        assert run_gc(bucket_run).num_uploads == 0
    assert "s3:ListBucketMultipartUploads" in caplog.text
    remove_run(bucket_run)
    assert not bucket_run.exists("_run.json")


def test_gc_leaves_the_uploads_of_others_below_its_prefix(bucket_run, s3_server):
    start_run(bucket_run)
    bucket, _, prefix = bucket_run.root.removeprefix("s3://").partition("/")
    keys = [f"{prefix}/photos/huge.tar", f"{prefix}/masks/mine.parquet", f"{prefix}/images/shard-1.tar"]
    client = s3_server.client()
    for key in keys:
        client.create_multipart_upload(Bucket=bucket, Key=key)
    assert run_gc(bucket_run, now_s=time.time() + 10 * TEMPORARY_AGE_S).num_uploads == 0
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(each["Key"] for each in left) == sorted(keys)


def test_the_environment_names_the_endpoint_where_no_configuration_does(bucket_run, s3_server, proxy, monkeypatch):
    bucket_run.replace("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    assert RunLocation.open(bucket_run.root).read_bytes("a") == b"1"
    # Another store, asked from the same process: what was connected before must not answer in its place.
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
    proxy.set_faults([Fault("denied", operation="GetObject")])
    with pytest.raises(ConfigError, match="access is denied"):
        RunLocation.open(bucket_run.root).read_bytes("a")
