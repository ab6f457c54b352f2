"""Requests to a real S3 server behind a proxy that fails them: what was done, and what was only answered."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from pseudoris.files import s3_requests
from pseudoris.files.s3_storage import S3Storage
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import StorageConfig
from tests.builders.fault_proxy import Fault

PART = 5 * 2**20
LIMITS = StorageConfig(read_timeout_s=1.0, patience_s=30.0)
ANY = re.compile(".*")
SMALL, LARGE = b"a receipt", os.urandom(2 * PART + 7)
# Each as it may meet a creation: not carried out, carried out and not answered, and answered wrongly.
FAULTS = (
    *("slow_down", "internal_error", "conflict", "conflict_done"),
    *("reset", "reset_done", "hang", "hang_done", "doubled"),
)


@pytest.fixture
def bucket(proxy, s3_bucket):
    return S3Storage(s3_bucket, proxy.endpoint_url, LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "operation", "kind"),
    [
        *(pytest.param(SMALL, "PutObject", kind, id=f"put-{kind}") for kind in FAULTS),
        *(pytest.param(LARGE, "CompleteMultipartUpload", kind, id=f"complete-{kind}") for kind in FAULTS),
        # A part and a beginning decide nothing: only the end of an upload creates the object.
        *(pytest.param(LARGE, "UploadPart", kind, id=f"part-{kind}") for kind in ("slow_down", "reset_done")),
        pytest.param(LARGE, "CreateMultipartUpload", "reset_done", id="begin-reset_done"),
    ],
)
def test_a_creation_that_meets_a_fault_is_won_once_and_stands_whole(bucket, proxy, kind, data, operation):
    proxy.set_faults([Fault(kind, times=1, operation=operation)])
    assert bucket.create_once("key", data) is True
    assert proxy.hits[kind] == 1
    assert bucket.get("key").data == data
    assert bucket.create_once("key", b"another's") is False
    assert bucket.get("key").data == data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_second_creation_is_refused_whatever_its_size(bucket, data):
    assert bucket.create_once("key", b"first")
    assert bucket.create_once("key", data) is False
    assert bucket.get("key").data == b"first"
    assert list(bucket.list_uploads(ANY)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conflict_done", "reset_done", "hang_done", "doubled"])
def test_the_same_bytes_of_another_writer_are_not_taken_for_ones_own(bucket, proxy, kind):
    assert bucket.create_once("key", SMALL) is True
    proxy.set_faults([Fault(kind, times=1, operation="PutObject")])
    assert bucket.create_once("key", SMALL) is False


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        *((operation, "reset") for operation in ("PutObject", "UploadPart", "CompleteMultipartUpload")),
        *(("CompleteMultipartUpload", kind) for kind in ("slow_down", "conflict", "reset_done", "doubled")),
    ],
)
def test_a_file_that_meets_a_fault_on_its_way_stands_whole_and_leaves_no_upload(
    bucket, proxy, tmp_path, operation, kind
):
    data = SMALL if operation == "PutObject" else LARGE
    (tmp_path / "file").write_bytes(data)
    proxy.set_faults([Fault(kind, times=1, operation=operation)])
    bucket.put_file("key", tmp_path / "file")
    assert sum(proxy.hits.values()) == 1
    assert bucket.get("key").data == data
    assert list(bucket.list_uploads(ANY)) == []


def test_a_file_of_more_than_ten_thousand_parts_goes_in_larger_ones(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("pseudoris.files.s3_storage.MAX_PARTS", 2)
    (tmp_path / "file").write_bytes(LARGE)
    bucket.put_file("key", tmp_path / "file")
    assert bucket.get("key").data == LARGE


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
def test_an_upload_that_gc_took_for_abandoned_is_begun_again(bucket, proxy, operation):
    proxy.set_faults([Fault("no_such_upload", times=1, operation=operation)])
    assert bucket.create_once("key", LARGE) is True
    assert bucket.get("key").data == LARGE
    proxy.set_faults([Fault("no_such_upload", operation=operation)])
    with pytest.raises(OSError, match="its upload was aborted 3 times"):
        bucket.put("key", LARGE)
    assert list(bucket.list_uploads(ANY)) == []


def test_of_sixteen_threads_exactly_one_creates_a_key_while_a_third_of_requests_fail(bucket, proxy):
    proxy.set_faults(
        [Fault(kind, rate=0.08) for kind in ("slow_down", "conflict_done", "reset", "reset_done", "doubled")]
    )
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda author: bucket.create_once("key", f"author {author}".encode()), range(16)))
    assert won.count(True) == 1
    assert bucket.get("key").data == f"author {won.index(True)}".encode()
    assert sum(proxy.hits.values()) > 0


@pytest.mark.parametrize("kind", ["slow_down", "reset", "hang", "cut_body", "slow_body"])
def test_a_read_that_meets_a_fault_gives_the_whole_object(bucket, proxy, kind):
    bucket.put("key", LARGE)
    proxy.set_faults([Fault(kind, times=2, operation="GetObject", seconds=0.5)])
    assert bucket.get("key").data == LARGE
    assert proxy.hits[kind] >= 1


class Body:
    """The body of an answer that may end early without an error of the client."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def iter_chunks(self, size_bytes: int):
        yield self._data

    def close(self) -> None:
        pass


def test_a_body_shorter_than_it_was_announced_is_read_again(monkeypatch, s3_credentials):
    bodies = [b"half", b"the whole"]

    async def answer(self, method, **arguments):
        headers = {"ContentLength": 9, "ETag": '"a"', "ResponseMetadata": {"HTTPStatusCode": 200}}
        return {"Body": Body(bodies.pop(0)), **headers}

    monkeypatch.setattr(S3Storage, "call", answer)
    assert S3Storage("bucket", None, LIMITS).get("key").data == b"the whole"


@pytest.mark.slow
def test_a_read_of_one_version_goes_on_where_it_broke_off(bucket, proxy):
    bucket.put("key", LARGE)
    etag = bucket.stat("key").etag
    proxy.reset_counts()
    proxy.set_faults([Fault("cut_body", times=1, operation="GetObject")])
    assert bucket.get("key", etag=etag).data == LARGE
    assert proxy.counts["GetObject"] == 2
    # The second answer was the rest alone; the proxy does not count the half that it cut.
    assert proxy.bytes_out["GetObject"] < 0.75 * len(LARGE)


def test_ranges_are_read_from_both_ends_and_end_with_the_object(bucket):
    bucket.put("key", b"0123456789")
    assert bucket.get("key", start=2, length=3).data == b"234"
    assert bucket.get("key", start=8, length=30).data == b"89"
    assert (bucket.get("key", start=-4).data, bucket.get("key", start=-4).size_bytes) == (b"6789", 10)
    assert bucket.get("key", start=-40).data == b"0123456789"
    assert bucket.get("key", start=10, length=5).data == b""
    bucket.put("empty", b"")
    assert (bucket.get("empty").data, bucket.get("empty", start=-100).size_bytes) == (b"", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *((kind, r"cannot read s3://.*/key: .*retried for 0\.8 s") for kind in ("slow_down", "hang", "slow_body")),
        ("expired", "ExpiredToken .*renew the credentials, then run the same command again"),
    ],
)
def test_patience_ends_and_says_so(bucket, proxy, kind, said):
    limits = LIMITS.model_copy(update={"read_timeout_s": 0.3, "patience_s": 0.8})
    bucket.put("key", LARGE)
    proxy.set_faults([Fault(kind, seconds=60)])
    with pytest.raises(TransientError, match=said):
        S3Storage(bucket.name, proxy.endpoint_url, limits).get("key")


@pytest.mark.slow
def test_a_failed_upload_is_aborted_and_one_that_cannot_be_is_left_for_gc(bucket, proxy):
    limits = LIMITS.model_copy(update={"patience_s": 0.5})
    hasty = S3Storage(bucket.name, proxy.endpoint_url, limits)
    proxy.set_faults([Fault("slow_down", operation="UploadPart")])
    with pytest.raises(TransientError, match="cannot write"):
        hasty.put("key", LARGE)
    assert list(bucket.list_uploads(ANY)) == []
    proxy.set_faults([Fault("slow_down", operation="UploadPart|AbortMultipartUpload")])
    with pytest.raises(TransientError, match="cannot write"):
        hasty.put("key", LARGE)
    proxy.set_faults([])
    (upload,) = bucket.list_uploads(ANY)
    bucket.abort_upload(upload)
    bucket.abort_upload(upload)
    assert list(bucket.list_uploads(ANY)) == []


@pytest.mark.slow
def test_missing_credentials_are_told_without_any_request(bucket, proxy, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3_requests.time, "sleep", lambda _: None)
    # Another time-out, so that no client with the old credentials is used again.
    limits = LIMITS.model_copy(update={"read_timeout_s": 1.9})
    proxy.reset_counts()
    with pytest.raises(ConfigError, match=r"NoCredentialsError\. Provide credentials"):
        S3Storage(bucket.name, proxy.endpoint_url, limits).get("key")
    assert not proxy.counts


@pytest.mark.slow
def test_credentials_that_come_a_moment_later_are_found(bucket, proxy, monkeypatch):
    bucket.put("key", b"1")
    given = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in given:
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3_requests.time, "sleep", lambda _: [monkeypatch.setenv(*each) for each in given.items()])
    limits = LIMITS.model_copy(update={"read_timeout_s": 1.8})
    assert S3Storage(bucket.name, proxy.endpoint_url, limits).get("key").data == b"1"


@pytest.mark.long
def test_a_listing_takes_one_request_a_thousand_keys_and_holds_each_once(bucket, proxy, s3_server):
    client = s3_server.client()
    names = [f"set/{number:05d} é" for number in range(1_001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: client.put_object(Bucket=bucket.name, Key=name), names))
    # A busy test machine must not make it ask twice.
    patient = S3Storage(bucket.name, proxy.endpoint_url, StorageConfig())
    pages = list(patient.pages("set/"))
    assert [each["Key"] for objects, _ in pages for each in objects] == names
    assert proxy.counts["ListObjectsV2"] == len(pages) == 2
