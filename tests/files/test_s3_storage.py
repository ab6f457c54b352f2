"""Objects of a real S3 server: order, versions, how many requests a listing takes; and a store that lies or stalls."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.files import key_order, s3_listing
from pseudoris.files.key_order import path_key
from pseudoris.files.location import RunLocation
from pseudoris.files.s3_storage import S3Storage
from pseudoris.files.storage import ChangedError, NoBucketError
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, TransientError
from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.store.sources import open_source
from pseudoris.store.sources.patterns import ALL_FILES, GlobPattern
from pseudoris.store.sources.root import SourceRoot
from tests.builders.fault_proxy import Fault
from tests.builders.memory import least_peak_bytes
from tests.builders.sources import parquet_bytes, tar_bytes

LIMITS = StorageConfig(read_timeout_s=20, patience_s=60)


@pytest.fixture
def bucket(proxy, s3_bucket):
    return S3Storage(s3_bucket, proxy.endpoint_url, LIMITS, prefix="set")


@pytest.fixture
def put(s3_server, s3_bucket):
    """Write objects past the proxy, several at once."""
    client = s3_server.client()

    def put_all(objects: dict[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: client.put_object(Bucket=s3_bucket, Key=key, Body=objects[key]), objects))

    return put_all


def listed(bucket, pattern=ALL_FILES) -> list[str]:
    walk = s3_listing.walk_bucket(bucket, "set", pattern.may_descend, None)
    return [file.path for file in walk if pattern.matches(tuple(file.path.split("/")))]


def source(bucket, path="set", **config):
    config = SourceConfig(endpoint_url=bucket.endpoint_url, **config)
    return open_source(f"s3://{bucket.name}/{path}", config, limits=LIMITS)


@pytest.mark.slow
def test_a_run_below_source_is_skipped_and_only_folders_with_a_header_are_looked_into(bucket, put):
    header = b'{"version": 1, "plan_parts": [], "identity": {}}'
    put({f"set/{n}/a.jpg": b"1" for n in range(20)} | {"set/3/b/_run.json": header, "set/3/b/c/d.jpg": b"1"})
    put({"set/3/b/A.jpg": b"1", "set/4/_run.json": b"{}"})
    assert [item.key for item in source(bucket).list()] == sorted(f"{n}/a.jpg" for n in range(20))


def test_a_listing_is_in_the_order_of_keys_which_is_not_the_stores(bucket, put):
    names = ["a.jpg", "a/b.jpg", "a-b.jpg", "é.jpg", "b c.jpg", "B.jpg", "a/é/x.jpg", "a/b/c/d.jpg", "z~.jpg"]
    put({f"set/{name}": b"1" for name in names} | {"set/": b"", "set/a/": b"", "set-2/x.jpg": b"1"})
    assert listed(bucket) == sorted(names, key=path_key) != sorted(names)


class Pages:
    """A bucket of sorted keys that answers pages of a few, as S3 does."""

    name = "bucket"

    def __init__(self, keys: list[str], page: int) -> None:
        self._keys = sorted(keys)
        self._page = page
        self.num_pages = 0

    def address(self, key: str) -> str:
        return f"s3://bucket/{key}"

    def pages(self, prefix, *, delimiter="", start_after=""):
        keys = (key for key in self._keys if key.startswith(prefix) and key > start_after)
        # All keys of a folder stand together.
        rows = (row for row, _ in groupby(keys, lambda key: self._row(key, prefix, delimiter)))
        is_first = True
        while (some := list(islice(rows, self._page))) or is_first:
            self.num_pages, is_first = self.num_pages + 1, False
            folders = [row for row in some if delimiter and row[-1] == delimiter]
            yield [{"Key": row, "Size": 1, "ETag": '"e"'} for row in some if row not in folders], folders

    def _row(self, key: str, prefix: str, delimiter: str) -> str:
        """Return the folder that stands for a key in a listing with a delimiter, or the key."""
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        return f"{prefix}{head}{delimiter}" if found else key


@settings(max_examples=50)
@given(
    paths=st.sets(
        st.lists(st.sampled_from(["a", "b", "é", ".h", "c d", "-"]), min_size=1, max_size=5).map("/".join), max_size=40
    ),
    page=st.integers(1, 7),
    listers=st.integers(1, 4),
    marks=st.sampled_from([2, 3, 256]),
    pattern=st.sampled_from(["**/*", "a/**/*", "*/b/*", "*/*", "**/é/*"]),
)
def test_every_object_is_listed_once_however_the_work_is_split(paths, page, listers, marks, pattern):
    glob = GlobPattern.parse(pattern)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("PAGE_KEYS", page), ("MAX_LISTERS", listers), ("MAX_MARKS", marks)):
            patch.setattr(s3_listing, name, value)
        found = listed(Pages([f"set/{path}" for path in paths], page), pattern=glob)
    assert found == sorted((path for path in paths if glob.matches(tuple(path.split("/")))), key=path_key)


def test_a_listing_of_many_folders_takes_pages_and_not_folders():
    pages = Pages([f"set/{number:03d}/image.jpg" for number in range(300)], page=1_000)
    assert len(listed(pages)) == 300
    # One for the folders, and a page for each range of them.
    assert pages.num_pages < 270


def test_a_folder_that_is_shut_is_jumped_over(monkeypatch):
    monkeypatch.setattr(s3_listing, "PAGE_KEYS", 10)
    keys = [f"set/a/.trash/{number:04d}.jpg" for number in range(1_000)] + ["set/a/b.jpg"]
    pages = Pages(keys, page=10)
    assert listed(pages) == ["a/b.jpg"]
    assert pages.num_pages < 10


@pytest.mark.long
def test_listing_sixty_thousand_objects_holds_a_part_of_them(monkeypatch):
    monkeypatch.setattr(key_order, "MAX_IN_MEMORY", 3_000)
    keys = [f"set/folder {number % 10}/{number:07d}.jpg" for number in range(60_000)]
    pages = Pages(keys, page=1_000)

    def list_all(_) -> None:
        walk = s3_listing.walk_bucket(pages, "set", ALL_FILES.may_descend, None)
        assert sum(path_key(last.path) < path_key(next.path) for last, next in pairwise(walk)) == 59_999

    # All of them at once would be 27 MB.
    assert least_peak_bytes(list_all) < 8_000_000


def test_what_stands_at_a_path_takes_a_request_or_two(bucket, put, proxy):
    put({"set/a/b.jpg": b"1"})
    assert [bucket.kind(path) for path in ("", "a", "a/b.jpg", "nothing")] == ["folder", "folder", "file", None]
    assert proxy.counts == {"ListObjectsV2": 4, "HeadObject": 2}


def test_a_bucket_that_is_not_there_or_denied_is_told_before_a_run(bucket, proxy):
    lost = S3Storage("no-such-bucket", bucket.endpoint_url, LIMITS)
    with pytest.raises(ConfigError, match="no such bucket"):
        source(lost)
    proxy.set_faults([Fault("denied")])
    with pytest.raises(ConfigError, match=r"access to s3://.*/set is denied: grant these credentials"):
        source(bucket)
    with pytest.raises(TransientError, match="cannot look at"):
        SourceRoot(bucket).stat("a.jpg")


@pytest.mark.slow
def test_a_tar_is_indexed_by_its_headers_alone(bucket, put, proxy):
    members = [(f"{number:02d}.jpg", bytes(300_000)) for number in range(20)]
    data = tar_bytes([*members, ("small.jpg", b"1"), ("small.json", b"{}"), ("small.txt", b"a")])
    put({"set/a.tar": data})
    items = list(source(bucket).list())
    assert len(items) == 21
    assert proxy.counts["GetObject"] == 21
    assert proxy.bytes_out["GetObject"] <= 21 * 32 * 2**10 < len(data) / 8
    assert [data[item.offset_bytes :][: item.size_bytes] for item in items[-2:]] == [bytes(300_000), b"1"]


def test_a_table_is_indexed_by_its_footer_alone(bucket, put, proxy):
    data = parquet_bytes({"bytes": [bytes([n]) * 300_000 for n in range(10)]}, row_group_size=2)
    put({"set/t.parquet": data})
    assert [item.row_group for item in source(bucket).list()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert proxy.counts["GetObject"] == 1
    assert proxy.bytes_out["GetObject"] <= 64 * 2**10


def test_archived_objects_are_told_when_they_are_listed_and_a_tar_of_them_is_refused(bucket, put, s3_server):
    put({"set/a.png": b"x"})
    archive = {"Bucket": bucket.name, "Body": b"x", "StorageClass": "DEEP_ARCHIVE"}
    s3_server.client().put_object(Key="set/b.png", **archive)
    found = source(bucket)
    assert [item.key for item in found.list()] == ["a.png", "b.png"]
    assert [text.partition(":")[0] for text in found.left_out.notices()] == [
        "in an archive class (GLACIER or the like)"
    ]
    s3_server.client().put_object(Key="set/c.tar", **archive)
    with pytest.raises(ConfigError, match=r"c\.tar cannot be opened \(the object is archived: restore it"):
        list(found.list())


HASTY = StorageConfig(read_timeout_s=1, patience_s=3)
PAGE = "<IsTruncated>false</IsTruncated>"
MORE = "<IsTruncated>true</IsTruncated>"
TOKEN = "<NextContinuationToken>token{}</NextContinuationToken>"
UPLOADS = "<NextKeyMarker>a{n}</NextKeyMarker><NextUploadIdMarker>b{n}</NextUploadIdMarker>"


@pytest.fixture
def liar(proxy, s3_server, s3_bucket):
    """Return a storage of three objects behind the proxy, which changes its answers."""
    for name in ("a.jpg", "b/c.jpg", "d.jpg"):
        s3_server.client().put_object(Bucket=s3_bucket, Key=f"set/{name}", Body=b"0123456789" * 100)
    return S3Storage(s3_bucket, proxy.endpoint_url, HASTY, prefix="set")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(MORE + TOKEN.format(""), "repeats", id="the same token for ever"),
        pytest.param(MORE + TOKEN.format("{n}"), "repeats", id="a new token and the same keys for ever"),
        pytest.param(MORE, "has no NextContinuationToken", id="no token"),
    ],
)
def test_a_listing_that_never_ends_is_told_after_a_few_requests(liar, proxy, more, said):
    proxy.set_faults([Fault("edited", operation="ListObjectsV2", old=PAGE, new=more)])
    for listing in (liar.list(""), liar.list_obstacles(""), liar.walk(ALL_FILES.may_descend)):
        proxy.reset_counts()
        with pytest.raises(ConfigError, match=rf"the store's .*{said}.*use another one"):
            list(listing)
        assert proxy.counts.total() < 10


@pytest.mark.slow
def test_a_listing_of_empty_pages_ends(liar, proxy):
    proxy.set_faults([Fault("edited", operation="ListObjectsV2", old=PAGE, new=MORE + TOKEN.format("{n}"))])
    with pytest.raises(ConfigError, match="goes on after 100 pages with nothing new"):
        list(liar.list("nothing"))
    assert proxy.counts.total() < 110


def test_a_prefix_that_comes_again_at_a_pages_border_is_one_folder(liar, proxy, s3_server, s3_bucket):
    s3_server.client().put_object(Bucket=s3_bucket, Key="set/e/f.jpg", Body=b"1")
    edit = partial(Fault, "edited", operation="ListObjectsV2")
    first = edit(times=1, old=PAGE, new=MORE + TOKEN.format("1"))
    # The second page begins with the prefix that ended the first.
    above = r"(?s)<Contents>.*</Contents>|<CommonPrefixes>\s*<Prefix>set/b/</Prefix>\s*</CommonPrefixes>"
    rest = edit(old=above, new="")
    proxy.set_faults([first, rest])
    assert list(liar.list_obstacles("")) == [("b", "a folder"), ("e", "a folder")]
    assert proxy.counts.total() == 2


def test_keys_that_do_not_come_after_those_before_are_refused(liar, proxy):
    edit = partial(Fault, "edited", operation="ListObjectsV2")
    proxy.set_faults([edit(old=r"<Key>set/d\.jpg</Key>", new="<Key>other/a.jpg</Key>")])
    with pytest.raises(ConfigError, match="keys of another folder"):
        list(liar.list(""))
    first = edit(times=1, old=PAGE, new=MORE + TOKEN.format("1"))
    proxy.set_faults([first, edit(old=r"<Key>set/a\.jpg</Key>", new="<Key>set/</Key>")])
    with pytest.raises(ConfigError, match="repeats keys, or has keys of another folder"):
        list(liar.list(""))


def test_a_list_of_uploads_that_never_ends_is_told(liar, proxy):
    proxy.set_faults([Fault("edited", operation="ListMultipartUploads", old=PAGE, new=MORE + UPLOADS)])
    with pytest.raises(ConfigError, match="goes on after 100 pages with nothing new"):
        list(liar.list_uploads(re.compile(".*")))
    assert proxy.counts.total() < 110


ETAG = '(?i)etag: "[0-9a-f]*"'
OTHER = 'ETag: "00000000000000000000000000{n}"'


def read_twice(stream):
    stream.read(10)
    stream.seek(500)
    stream.read(10)


def test_a_store_that_gives_another_version_than_was_asked_for_is_not_believed(liar, proxy):
    planned = liar.stat("a.jpg")
    proxy.set_faults([Fault("edited", operation="GetObject", old=ETAG, new=OTHER)])
    with pytest.raises(ImageError, match="etag"), liar.open_version("a.jpg", planned) as stream:
        stream.read()
    with pytest.raises(ChangedError), liar.open("a.jpg") as stream:
        read_twice(stream)


def test_a_file_of_a_run_that_changes_while_it_is_read_ends_with_a_sentence(liar, proxy):
    location = RunLocation.open(liar.uri(), liar.endpoint_url, HASTY)
    location.replace("a.jpg", bytes(3 * 2**20))
    proxy.set_faults([Fault("edited", operation="GetObject", old=ETAG, new=OTHER)])
    with pytest.raises(PseudorisError, match=r"cannot read .*/a\.jpg"), location.open_input("a.jpg") as stream:
        stream.read(10)


def test_an_answer_without_a_field_is_the_stores_fault(liar, proxy):
    proxy.set_faults([Fault("edited", operation="HeadObject", old=ETAG + "\r\n", new="")])
    with pytest.raises(ConfigError, match="the store's answer has no ETag"):
        liar.stat("a.jpg")


def test_a_store_that_sends_more_than_was_asked_for_is_refused(liar, proxy):
    proxy.set_faults([Fault("edited", operation="GetObject", old="(?i)206 partial content", new="200 OK")])
    with pytest.raises(OSError, match="does not support range requests"):
        liar.get("set/a.jpg", start=10, length=10)
    proxy.set_faults([Fault("edited", operation="GetObject", old="\r\n\r\n(?=0)", new="\r\n\r\n000")])
    for start, length in ((0, 10), (-10, None)):
        with pytest.raises(OSError, match="does not support range requests"):
            liar.get("set/a.jpg", start=start, length=length)


@pytest.mark.slow
def test_a_body_that_stalls_is_given_up_in_time(liar, proxy):
    hasty = S3Storage(liar.name, proxy.endpoint_url, StorageConfig(read_timeout_s=0.3, patience_s=1), prefix="set")
    proxy.set_faults([Fault("stalled_body", operation="GetObject|ListObjectsV2")])
    started = time.monotonic()
    for read in (lambda: hasty.read("a.jpg"), lambda: list(hasty.list(""))):
        with pytest.raises(TransientError, match="retried for 1 s"):
            read()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["redirected", "elsewhere"])
def test_a_redirection_without_a_region_and_a_wrong_location_are_the_users_to_mend(liar, proxy, kind):
    proxy.set_faults([Fault(kind)])
    for operation in (
        lambda: liar.stat("a.jpg"),
        lambda: liar.read("a.jpg"),
        lambda: liar.kind(""),
        lambda: liar.put("e.jpg", b"1"),
        lambda: liar.create_once("e.jpg", b"1"),
    ):
        proxy.reset_counts()
        with pytest.raises(NoBucketError, match="Check the bucket's name, region and endpoint"):
            operation()
        assert proxy.counts.total() <= 3
