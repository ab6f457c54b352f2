"""The root of SOURCE: the version that is read, what an error means in a run, and where a row's uri may lead."""

from __future__ import annotations

import errno
import logging
import os
import traceback
import uuid
from unittest.mock import Mock

import fsspec
import pytest

from pseudoris.files.local_storage import LocalStorage
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, TransientError
from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.sources import open_source
from pseudoris.store.sources.patterns import ALL_FILES
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.root import resolve_uri, root_at
from tests.builders.redirecting_host import redirecting_host
from tests.builders.sources import parquet_bytes, plan_of


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"first")
    return root_at(str(tmp_path), SourceConfig())


def listed_bytes(root, listed) -> bytes:
    """Return a file as the listing of tars and tables reads it: the version that was listed."""
    with root.open_listed(listed, window_bytes=0) as stream:
        return stream.read()


def test_another_version_of_what_was_listed_ends_the_listing(root, tmp_path):
    (listed,) = root.storage.walk(ALL_FILES.may_descend)
    assert listed_bytes(root, listed) == b"first"
    (tmp_path / "a.jpg").write_bytes(b"second")
    with pytest.raises(TransientError, match=r"a\.jpg changed while it was being listed"):
        listed_bytes(root, listed)
    with pytest.raises(ImageError, match="differs from the plan"), root.open("a.jpg", listed):
        pytest.fail("another version was opened")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ConfigError, match=r"a\.jpg vanished while SOURCE was listed"):
        listed_bytes(root, listed)


def test_a_tar_that_cannot_be_opened_is_named_with_its_remedy(root, tmp_path, monkeypatch):
    (tmp_path / "self.tar").symlink_to("self.tar")
    (tmp_path / "lost.tar").symlink_to("nowhere.tar")
    listed = {file.path: file for file in root.storage.walk(ALL_FILES.may_descend)}
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(LocalStorage, "open", Mock(side_effect=denied))
    for path, problem in {
        "self.tar": r"self\.tar cannot be opened \(its link leads to itself, .*remove it from SOURCE",
        "lost.tar": r"lost\.tar is a link that leads nowhere: repair it, or remove it from SOURCE",
        "a.jpg": r"access to .*a\.jpg is denied: grant .* or remove it from SOURCE",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            listed_bytes(root, listed[path])


@pytest.mark.parametrize(
    ("uri", "uri_root", "full"),
    [
        *((uri, None, "/data/meta/a.jpg") for uri in ("a.jpg", "sub/../a.jpg", "file:///data/meta/a.jpg")),
        ("FILE:///data/meta/a.jpg", None, "/data/meta/a.jpg"),
        ("/data/meta/x/a.jpg", None, "/data/meta/x/a.jpg"),
        *((uri, "/data", "/data/images/a.jpg") for uri in ("images/a.jpg", "/data/images/a.jpg")),
        ("file:/etc/hostname", None, "/data/meta/file:/etc/hostname"),
        ("S3://bucket/a.jpg", None, "s3://bucket/a.jpg"),
        *((uri, None, uri) for uri in ("https://images.example.org/a.jpg", "http://8.8.8.8:8080/x/a.jpg")),
        ("a.jpg", "memory://bucket/set", "memory:///bucket/set/a.jpg"),
    ],
)
def test_a_uri_names_a_place_below_its_root_or_in_a_store(uri, uri_root, full):
    root, path = resolve_uri(uri, "/data/meta/t.parquet", SourceConfig(uri_root=uri_root))
    assert root.describe(path).replace("memory:///", "memory://") == full.replace("memory:///", "memory://")


@pytest.mark.parametrize("folder", ["my data", "set#one", "set?one", "set?x=1", "set;v=1"])
def test_a_tables_rows_begin_in_its_own_folder_whatever_letters_it_has(folder):
    files, config = fsspec.filesystem("memory"), SourceConfig(allowed_query=("x", "v"))
    bucket = f"memory://rows-{uuid.uuid4().hex}"
    place = f"{bucket}/{folder}"
    table = parquet_bytes({"url": ["a.png"]})
    for path, data in {f"{place}/t.parquet": table, f"{place}/a.png": b"right", f"{bucket}/a.png": b"wrong"}.items():
        files.pipe(path, data)
    source = open_source(place, config)
    entries = [entry for entry in plan_of(source.list()) if entry.row is not None]
    run = load_config("tiny").model_copy(update={"source": config})
    assert [outcome for _, outcome in read_entries(source.root, entries, run)] == [b"right"]


ASTRAY = (
    *("../a.jpg", "sub/../../a.jpg", "/etc/passwd", "file:///etc/passwd", "file:///data/meta/../../etc/passwd"),
    *("/data/metabolism/a.jpg", "file://../../etc/passwd", "nul\0byte.jpg"),
    *("caf\udce9.jpg", "s3://bucket/caf\udce9.jpg"),
    # Chains, and protocols that a row must not name.
    *(
        "zip://x::file:///etc/passwd",
        "file://file:///etc/passwd",
        "local://file:///etc/passwd",
        "ssh://host/etc/passwd",
    ),
    *("file://local:///etc/passwd", "s3://bucket/file:///etc/passwd", "dir:///etc/passwd", "memory://bucket/a.jpg"),
    *("nope://bucket/a.jpg", "github://org:repo@main/a.jpg", "://etc/passwd"),
    # Without a key, with a secret, or longer than any file's name.
    *("s3://bucket", "s3://bucket/", "s3:///passwd", "s3://key:hush@bucket/a.jpg"),
    *("https://user:hush@host/a.jpg", f"{'a' * 256}.jpg", f"file:///data/meta/{'a' * 256}.jpg"),
    *("a/" * 2048 + "a.jpg", f"s3://bucket/{'a/' * 2048}a.jpg"),
)


@pytest.mark.parametrize("uri", ASTRAY)
def test_a_uri_that_leads_astray_is_refused_and_not_echoed(uri):
    with pytest.raises(ImageError, match="the uri") as caught:
        resolve_uri(uri, "/data/meta/t.parquet", SourceConfig())
    assert caught.value.reason == "refused_uri"
    assert "hush" not in caught.value.message
    assert "passwd" not in caught.value.message


def test_a_rows_query_is_read_and_never_shown():
    root, path = resolve_uri("https://host/x/a b.jpg?sig=hu sh#hush", "/data/t.parquet", SourceConfig())
    assert root.storage.uri(path) == "https://host/x/a b.jpg?sig=hu sh#hush"
    assert root.describe(path) == "https://host/x/a%20b.jpg?…"


INNER_HOSTS = (
    *("169.254.169.254", "10.0.0.7", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0"),
    *("127.0.0.1", "127.0.0.1:8080", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "１２７.0.0.1"),
    *("[fe80:0:0:0:0:0:0:1]", "[0:0:0:0:0:0:0:1]", "[fd00:0:0:0:0:0:0:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::1]"),
    *("localhost", "LOCALHOST:80", "metadata.localhost", "127。0。0。1", "a\\127.0.0.1", "host:port", "[bad", ""),
)


@pytest.mark.parametrize("host", INNER_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_a_web_host_of_this_machine_or_a_private_network_is_refused(scheme, host):
    with pytest.raises(ImageError, match="the uri") as caught:
        resolve_uri(f"{scheme}://{host}/latest/meta-data", "/data/meta/t.parquet", SourceConfig())
    assert caught.value.reason == "refused_uri"


def test_an_absolute_path_in_a_remote_table_is_refused():
    with pytest.raises(ImageError, match="leaves"):
        resolve_uri("/etc/passwd", "memory://bucket/t.parquet", SourceConfig())


GIVEN, REDIRECTED = "hunter2", "swordfish"


def read_all(source):
    with source.root.open(source.named[0]) as stream:
        stream.read()


@pytest.mark.parametrize("failure", [0, 403, 503])
def test_no_error_of_a_clients_repeats_where_a_server_redirected_it(caplog, failure):
    caplog.set_level(logging.DEBUG, logger="pseudoris")
    config, limits = SourceConfig(allowed_query=("sig",), format="webdataset"), StorageConfig(patience_s=0.5)
    with redirecting_host(REDIRECTED) as host:
        url = f"{host.url}/set.tar?sig={GIVEN}"
        opened = open_source(url, config, limits=limits)
        assert len(list(opened.list())) == 8
        host.failure, host.fails_after = failure, 0
        for work in (lambda: list(open_source(url, config, limits=limits).list()), lambda: read_all(opened)):
            with pytest.raises((PseudorisError, FileNotFoundError)) as caught:
                work()
            assert REDIRECTED not in "".join(traceback.format_exception(caught.value)) + caplog.text
            assert GIVEN not in str(caught.value)


def test_a_source_that_is_missing_or_empty_is_named_without_its_query():
    fsspec.filesystem("memory").pipe("memory://told/set?sig=hunter2/a.txt", b"")
    for url in (f"memory://told/none?sig={GIVEN}", f"memory://told/set?sig={GIVEN}"):
        with pytest.raises(PseudorisError, match=r"\?…' (?:does not exist|lists no image)") as caught:
            list(open_source(url, SourceConfig(allowed_query=("sig",))).list())
        assert GIVEN not in str(caught.value)
