"""Where a run is: on a disk, in memory and in a bucket behind a proxy that fails requests."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pseudoris.files.local_storage import LocalStorage
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.store.runs.garbage import TEMPORARY_AGE_S, remove_run, run_gc
from pseudoris.store.runs.manifest import cached_receipts, write_manifest
from tests.builders.fault_proxy import Fault
from tests.store.builders import commit, start_run


@pytest.mark.slow
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "nothing listens"])
def test_a_command_that_reads_is_told_of_a_dead_store_within_ten_seconds(is_silent, s3_credentials, monkeypatch):
    began_s = time.monotonic()
    # It takes connections and never answers.
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1] if is_silent else 9}")
        with pytest.raises(TransientError, match=r"cannot look at s3://bucket/run/_run\.json: "):
            RunLocation.open_to_read("s3://bucket/run")
    assert time.monotonic() - began_s < 10
    # A run has its long patience.
    assert RunLocation.open("s3://bucket/run")._storage.limits.patience_s == 300


def test_of_sixteen_threads_exactly_one_creates_each_key_and_its_content_stands(disk):
    def race(author: int) -> list[int]:
        return [key for key in range(40) if disk.create_once(f"_receipts/{key}", b"%d" % author)]

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sorted(key for keys in won for key in keys) == list(range(40))
    for author, keys in enumerate(won):
        assert all(disk.read_bytes(f"_receipts/{key}") == b"%d" % author for key in keys)
    assert list(disk.list_temporary("_receipts")) == []


def test_a_part_of_equal_size_is_left_alone_and_another_size_is_replaced(location):
    location.put_part("masks/a", b"abc")
    location.put_part("masks/a", b"xyz")
    assert location.read_bytes("masks/a") == b"abc"
    location.put_part("masks/a", b"longer")
    assert location.read_bytes("masks/a") == b"longer"


def test_the_storage_tells_its_time_and_keeps_nothing(location):
    location.replace("a.txt", b"before")
    (before,) = (file.modified_s for file in location.list(""))
    now_s = location.clock_s()
    assert before <= now_s < before + 600
    assert [file.name for file in location.list("")] == ["a.txt"]


def test_a_store_that_ignores_the_condition_is_told(disk, monkeypatch):
    def overwrite(files, path, data):
        files.put(path, data)
        return True

    monkeypatch.setattr(LocalStorage, "create_once", overwrite)
    with pytest.raises(ConfigError, match="allowed a file to be created twice"):
        disk.probe()


def test_a_file_in_place_of_the_folder_is_told_and_a_folder_in_place_of_a_file_is_none(tmp_path):
    (tmp_path / "out").write_text("a file")
    location = RunLocation.open(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"cannot create .*out/_run.json: a part of the path is a file"):
        location.create_once("_run.json", b"")
    with pytest.raises(ConfigError, match=r"cannot list .*out/masks: a part of the path is a file"):
        list(location.list("masks"))
    (tmp_path / "_run.json").mkdir()
    location = RunLocation.open(str(tmp_path))
    assert not location.exists("_run.json")
    with pytest.raises(ConfigError, match="it is a folder, but must be a file"):
        location.read_bytes("_run.json")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        *((out, "is not a complete location: give a bucket and a prefix") for out in ("s3://", "s3:///", "memory://")),
        ("s3://key:secret@bucket/run", "credentials before an @"),
        ("nosuch://bucket", "cannot open 'nosuch://bucket'"),
        ("", "a path is empty, perhaps a variable of the shell"),
    ],
)
def test_a_uri_that_is_no_place_is_refused_and_is_no_folder_of_this_disk(out, said):
    with pytest.raises(ConfigError, match=said):
        RunLocation.open(out)


def test_addresses_are_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunLocation.open("run").uri("masks/a") == str(tmp_path / "run/masks/a")
    assert RunLocation.open(f"file://{tmp_path}/run").uri("masks/a") == str(tmp_path / "run/masks/a")
    assert RunLocation.open("memory://bucket/run/").uri("masks/a").endswith("bucket/run/masks/a")


@pytest.mark.parametrize(
    ("outer", "folder", "other", "holds"),
    [
        ("s3://b/run", "", "s3://b/run/", True),
        ("s3://b/run", "", "s3a://b/run/inner", True),
        ("s3://b/run", "", "s3://b/run2", False),
        ("s3://b/run", "images", "s3://b/run/images/pages", True),
        ("s3://b/run", "images", "s3://b/run/gallery", False),
        ("s3://b/run", "", "/b/run", False),
        ("/", "", "/b/run", True),
    ],
)
def test_a_place_holds_what_lies_in_it_and_not_what_its_name_begins(outer, folder, other, holds):
    assert RunLocation.open(outer).holds(RunLocation.open(other), folder) is holds


LARGE = bytes(11 * 2**20)
PART = "masks/shard-00000000.g0-00000000.parquet"


def test_a_denied_bucket_is_told_before_work_starts(bucket_run, proxy):
    for denied in ("PutObject", "PutObject|DeleteObject"):
        proxy.set_faults([Fault("denied", operation=denied)])
        proxy.reset_counts()
        with pytest.raises(ConfigError, match=r"cannot create s3://.*: access is denied: grant this user"):
            bucket_run.probe()
        assert proxy.counts["PutObject"] == 1


@pytest.mark.parametrize("kind", ["ceph_quota", "minio_quota", "minio_full"])
def test_a_full_store_is_named_as_full_at_the_first_answer(bucket_run, proxy, kind):
    proxy.set_faults([Fault(kind, operation="PutObject|UploadPart")])
    told = r"cannot (create|write) s3://.*: the store is full \(XMinio\w+|the store is full \(QuotaExceeded"
    for write in (bucket_run.probe, lambda: bucket_run.put_part(PART, b"x"), lambda: bucket_run.put_part(PART, LARGE)):
        proxy.reset_counts()
        with pytest.raises(ConfigError, match=told) as refusal:
            write()
        assert isinstance(refusal.value.__cause__, OSError)
        assert proxy.hits[kind] <= 8, "parts of one upload may be on their way together"


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


def test_a_resume_lists_receipts_by_pages_and_reads_the_manifest_alone(bucket_run, proxy):
    header = start_run(bucket_run)
    commit(bucket_run, header, *range(header.num_shards))
    write_manifest(bucket_run)
    proxy.reset_counts()
    assert len(list(cached_receipts(bucket_run))) == header.num_shards
    # A page of receipts, a page of manifests, a page of extensions of the plan; no receipt is read.
    assert proxy.counts["ListObjectsV2"] == 3
    assert not [key for operation, key in proxy.requests if operation == "GetObject" and "_receipts/" in key]
    assert proxy.counts["HeadObject"] == 0


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


def test_gc_gives_up_old_uploads_of_ours_and_leaves_young_ones_and_those_of_others(bucket_run, s3_server):
    start_run(bucket_run)
    bucket, _, prefix = bucket_run.root.removeprefix("s3://").partition("/")
    others = [f"{prefix}/{key}" for key in ("photos/huge.tar", "masks/mine.parquet", "images/shard-1.tar")]
    client = s3_server.client()
    for key in (*others, f"{prefix}/{PART}"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    started_s = max(upload.started_s for upload in bucket_run.list_uploads())
    assert run_gc(bucket_run, now_s=started_s + 1).num_uploads == 0
    assert run_gc(bucket_run, now_s=started_s + 10 * TEMPORARY_AGE_S).num_uploads == 1
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(each["Key"] for each in left) == sorted(others)


def test_the_environment_names_the_endpoint_where_no_configuration_does(bucket_run, s3_server, proxy, monkeypatch):
    bucket_run.replace("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    assert RunLocation.open(bucket_run.root).read_bytes("a") == b"1"
    # Another store, asked from the same process: what was connected before must not answer in its place.
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
    proxy.set_faults([Fault("denied", operation="GetObject")])
    with pytest.raises(ConfigError, match="access is denied"):
        RunLocation.open(bucket_run.root).read_bytes("a")


def test_a_proxy_that_packs_bodies_is_named_and_not_the_store(bucket_run, proxy):
    proxy.set_faults([Fault("edited", operation="GetObject", old="first", new="\x1f\x8bxyz")])
    with pytest.raises(ConfigError, match="a proxy between here and the store packs them with gzip"):
        bucket_run.probe()
