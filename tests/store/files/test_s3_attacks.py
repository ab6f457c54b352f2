"""A store that lies or stalls: it is told after a few requests, and bytes of another version are never used."""

from __future__ import annotations

import re
import time
from functools import partial

import pytest

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError, TransientError
from pseudoris.store.files.s3_storage import S3Storage
from pseudoris.store.files.storage import ChangedError, NoBucketError
from pseudoris.store.location import RunLocation
from pseudoris.store.sources.patterns import ALL_FILES
from tests.builders.fault_proxy import Fault

LIMITS = StorageConfig(read_timeout_s=1, patience_s=3)
PAGE = "<IsTruncated>false</IsTruncated>"
MORE = "<IsTruncated>true</IsTruncated>"
TOKEN = "<NextContinuationToken>token{}</NextContinuationToken>"
UPLOADS = "<NextKeyMarker>a{n}</NextKeyMarker><NextUploadIdMarker>b{n}</NextUploadIdMarker>"


@pytest.fixture
def bucket(proxy, s3_server, s3_bucket):
    """Return a bucket of three objects below `set`, behind the proxy."""
    for name in ("a.jpg", "b/c.jpg", "d.jpg"):
        s3_server.client().put_object(Bucket=s3_bucket, Key=f"set/{name}", Body=b"0123456789" * 100)
    return S3Storage(s3_bucket, proxy.endpoint_url, LIMITS, prefix="set")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(MORE + TOKEN.format(""), "repeats", id="the same token for ever"),
        pytest.param(MORE + TOKEN.format("{n}"), "repeats", id="a new token and the same keys for ever"),
        pytest.param(MORE, "has no NextContinuationToken", id="no token"),
    ],
)
def test_a_listing_that_never_ends_is_told_after_a_few_requests(bucket, proxy, more, said):
    proxy.set_faults([Fault("edited", operation="ListObjectsV2", old=PAGE, new=more)])
    for listing in (bucket.list(""), bucket.list_obstacles(""), bucket.walk(ALL_FILES.may_descend)):
        proxy.reset_counts()
        with pytest.raises(ConfigError, match=rf"the store's .*{said}.*use another one"):
            list(listing)
        assert proxy.counts.total() < 10


@pytest.mark.slow
def test_a_listing_of_empty_pages_ends(bucket, proxy):
    proxy.set_faults([Fault("edited", operation="ListObjectsV2", old=PAGE, new=MORE + TOKEN.format("{n}"))])
    with pytest.raises(ConfigError, match="goes on after 100 pages with nothing new"):
        list(bucket.list("nothing"))
    assert proxy.counts.total() < 110


def test_a_prefix_that_comes_again_at_a_pages_border_is_one_folder(bucket, proxy, s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="set/e/f.jpg", Body=b"1")
    edit = partial(Fault, "edited", operation="ListObjectsV2")
    first = edit(times=1, old=PAGE, new=MORE + TOKEN.format("1"))
    # The second page begins with the prefix that ended the first.
    above = r"(?s)<Contents>.*</Contents>|<CommonPrefixes>\s*<Prefix>set/b/</Prefix>\s*</CommonPrefixes>"
    rest = edit(old=above, new="")
    proxy.set_faults([first, rest])
    assert list(bucket.list_obstacles("")) == [("b", "a folder"), ("e", "a folder")]
    assert proxy.counts.total() == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [("other/a.jpg", "keys of another folder"), ("set/", "repeats keys, or has keys of another folder")],
)
def test_keys_that_do_not_come_after_those_before_are_refused(bucket, proxy, key, said):
    proxy.set_faults(
        [Fault("edited", operation="ListObjectsV2", old=r"<Key>set/d\.jpg</Key>", new=f"<Key>{key}</Key>")]
    )
    if key == "set/":
        proxy.set_faults(
            [
                Fault("edited", times=1, operation="ListObjectsV2", old=PAGE, new=MORE + TOKEN.format("1")),
                Fault("edited", operation="ListObjectsV2", old=r"<Key>set/a\.jpg</Key>", new=f"<Key>{key}</Key>"),
            ]
        )
    with pytest.raises(ConfigError, match=said):
        list(bucket.list(""))


def test_a_list_of_uploads_that_never_ends_is_told(bucket, proxy):
    proxy.set_faults([Fault("edited", operation="ListMultipartUploads", old=PAGE, new=MORE + UPLOADS)])
    with pytest.raises(ConfigError, match="goes on after 100 pages with nothing new"):
        list(bucket.list_uploads(re.compile(".*")))
    assert proxy.counts.total() < 110


ETAG = '(?i)etag: "[0-9a-f]*"'
OTHER = 'ETag: "00000000000000000000000000{n}"'


def read_twice(stream):
    stream.read(10)
    stream.seek(500)
    stream.read(10)


def test_a_store_that_gives_another_version_than_was_asked_for_is_not_believed(bucket, proxy):
    planned = bucket.stat("a.jpg")
    proxy.set_faults([Fault("edited", operation="GetObject", old=ETAG, new=OTHER)])
    with pytest.raises(ImageError, match="etag"), bucket.open_version("a.jpg", planned) as stream:
        stream.read()
    with pytest.raises(ChangedError), bucket.open("a.jpg") as stream:
        read_twice(stream)


def test_a_file_of_a_run_that_changes_while_it_is_read_ends_with_a_sentence(bucket, proxy):
    location = RunLocation.open(bucket.uri(), bucket.endpoint_url, LIMITS)
    location.replace("a.jpg", bytes(3 * 2**20))
    proxy.set_faults([Fault("edited", operation="GetObject", old=ETAG, new=OTHER)])
    with pytest.raises(PseudorisError, match=r"cannot read .*/a\.jpg"), location.open_input("a.jpg") as stream:
        stream.read(10)


def test_an_answer_without_a_field_is_the_stores_fault(bucket, proxy):
    proxy.set_faults([Fault("edited", operation="HeadObject", old=ETAG + "\r\n", new="")])
    with pytest.raises(ConfigError, match="the store's answer has no ETag"):
        bucket.stat("a.jpg")


def test_a_store_that_sends_more_than_was_asked_for_is_refused(bucket, proxy):
    proxy.set_faults([Fault("edited", operation="GetObject", old="(?i)206 partial content", new="200 OK")])
    with pytest.raises(OSError, match="does not support range requests"):
        bucket.get("set/a.jpg", start=10, length=10)
    proxy.set_faults([Fault("edited", operation="GetObject", old="\r\n\r\n(?=0)", new="\r\n\r\n000")])
    for start, length in ((0, 10), (-10, None)):
        with pytest.raises(OSError, match="does not support range requests"):
            bucket.get("set/a.jpg", start=start, length=length)


@pytest.mark.slow
def test_a_body_that_stalls_is_given_up_in_time(bucket, proxy):
    hasty = S3Storage(bucket.name, proxy.endpoint_url, StorageConfig(read_timeout_s=0.3, patience_s=1), prefix="set")
    proxy.set_faults([Fault("stalled_body", operation="GetObject|ListObjectsV2")])
    started = time.monotonic()
    for read in (lambda: hasty.read("a.jpg"), lambda: list(hasty.list(""))):
        with pytest.raises(TransientError, match="retried for 1 s"):
            read()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["redirected", "elsewhere"])
def test_a_redirection_without_a_region_and_a_wrong_location_are_the_users_to_mend(bucket, proxy, kind):
    proxy.set_faults([Fault(kind)])
    for operation in (
        lambda: bucket.stat("a.jpg"),
        lambda: bucket.read("a.jpg"),
        lambda: bucket.kind(""),
        lambda: bucket.put("e.jpg", b"1"),
        lambda: bucket.create_once("e.jpg", b"1"),
    ):
        proxy.reset_counts()
        with pytest.raises(NoBucketError, match="Check the bucket's name, region and endpoint"):
            operation()
        assert proxy.counts.total() <= 3
