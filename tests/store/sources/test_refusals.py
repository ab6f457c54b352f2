"""An image that its store refuses is to blame only if it is refused twice and the store gives another."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from urllib.request import Request, urlopen

import aiohttp
import pytest
from fsspec import AbstractFileSystem

from pseudoris.files.fsspec_storage import FsspecStorage
from pseudoris.files.local_storage import LocalStorage
from pseudoris.primitives.errors import TransientError
from pseudoris.schemas.config import RunConfig, SourceConfig, StorageConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Proof, Shard
from pseudoris.store.sources import open_source, planned_images, proven_shard
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.sources.root import SourceRoot
from tests.builders.fault_proxy import Fault, injecting
from tests.builders.sources import parquet_bytes, plan_of, reasons, write_files

REFUSED_BY_ALL = r"refused twice, 60 s apart, and no other image of the same store can be read"


class Believing:
    """Stands in for the decoders: any bytes are an image."""

    def prove(self, data: bytes) -> Proof:
        return Proof((1, len(data)))


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The minutes that were waited; none of them really is."""
    waited: list[float] = []
    monkeypatch.setattr(proven_shard.time, "sleep", waited.append)
    return waited


@pytest.fixture
def locks(monkeypatch) -> set[str]:
    """The names of a disk's files that are refused when they are opened; `*` is all of them."""
    names: set[str] = set()
    opens = LocalStorage.open

    def guarded(storage, path, **options):
        if names & {path, "*"}:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opens(storage, path, **options)

    monkeypatch.setattr(LocalStorage, "open", guarded)
    return names


def config(**source) -> RunConfig:
    base = load_config("tiny")
    storage = StorageConfig(read_timeout_s=20, patience_s=60)
    placement = base.placement.model_copy(update={"storage": storage})
    return base.model_copy(update={"source": SourceConfig(**source), "placement": placement})


def read(source, configuration: RunConfig | None = None, *, count: int = 10) -> Shard:
    """Read the first images of SOURCE as one shard; the others are the rest of the plan."""
    configuration = configuration or config()
    entries = plan_of(open_source(str(source), configuration.source).list())
    return read_shard(str(source), configuration, entries[:count], prover=Believing(), others=entries[count:])


def test_files_that_are_refused_twice_among_others_are_denied_after_one_wait(tmp_path, locks, pauses):
    write_files(tmp_path, dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), b"x"))
    locks |= {"b.png", "d.png"}
    shard = read(tmp_path)
    assert reasons(shard) == {"a.png": None, "b.png": "denied", "c.png": None, "d.png": "denied"}
    assert shard.images[1].failure.message == "access was refused twice, while another image could be read"
    assert pauses == [60.0]


def test_a_file_that_is_given_after_the_minute_is_read(tmp_path, locks, monkeypatch):
    write_files(tmp_path, dict.fromkeys(("a.png", "b.png"), b"x"))
    locks.add("b.png")
    monkeypatch.setattr(proven_shard.time, "sleep", lambda _: locks.clear())
    assert reasons(read(tmp_path)) == {"a.png": None, "b.png": None}


def test_credentials_that_expire_within_a_shard_quarantine_nothing(tmp_path, locks, monkeypatch):
    write_files(tmp_path, dict.fromkeys(("a.png", "b.png"), b"x"))
    locks.add("b.png")
    monkeypatch.setattr(proven_shard.time, "sleep", lambda _: locks.add("*"))
    with pytest.raises(TransientError, match=rf"cannot read .*b\.png: Permission denied.*{REFUSED_BY_ALL}"):
        read(tmp_path)


def test_paths_that_cannot_be_followed_are_unreadable_and_cost_no_wait(tmp_path, pauses):
    write_files(tmp_path, dict.fromkeys(("a.png",), b"x"))
    (tmp_path / "long.png").symlink_to("x" * 300)
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"uri": ["self.png", "a.png", "long.png"]}))
    shard = read(tmp_path)
    assert reasons(shard) == {
        **{"a.png": None, "long.png": "unreadable", "self.png": "unreadable"},
        **{"t.parquet#0": "unreadable", "t.parquet#1": None, "t.parquet#2": "unreadable"},
    }
    assert "its link leads to itself" in shard.images[2].failure.message
    assert pauses == []


@pytest.fixture
def bucket(s3_server, s3_bucket):
    """A bucket of three images behind a proxy, as (uri, configuration, proxy)."""
    for name in ("a.png", "b.png", "c.png"):
        url = f"{s3_server.endpoint_url}/{s3_bucket}/set/{name}"
        # The server asks for no signature, and a client takes half a second to make.
        with urlopen(Request(url, name.encode(), {"Content-Type": "image/png"}, method="PUT")):
            pass
    with injecting(s3_server.endpoint_url) as proxy:
        yield f"s3://{s3_bucket}/set", config(endpoint_url=proxy.endpoint_url), proxy


def table_of(folder, *uris: str) -> Path:
    table = parquet_bytes({"uri": list(uris)})
    return write_files(folder, {"here.png": b"x", "there.png": b"x", "t.parquet": table}) / "t.parquet"


BAD_BUCKETS = ("s3://nobucket-xyz/x.png", "s3://not a bucket/x.png", "s3://a..b/x.png")


@pytest.mark.parametrize("beside", ["here.png", "{bucket}/a.png"], ids=["of files", "of objects"])
def test_rows_that_name_no_bucket_cost_themselves(tmp_path, bucket, beside):
    uri, configuration, _ = bucket
    table = table_of(tmp_path, beside.format(bucket=uri), *BAD_BUCKETS)
    assert list(reasons(read(table, configuration)).values()) == [None, "missing", "missing", "missing"]


def test_a_row_of_a_bucket_that_refuses_costs_itself(tmp_path, bucket):
    uri, configuration, proxy = bucket
    proxy.set_faults([Fault("denied", key=r"b\.png")])
    rows = (f"{uri}/a.png", f"{uri}/b.png", "here.png")
    assert list(reasons(read(table_of(tmp_path, *rows), configuration)).values()) == [None, "denied", None]
    alone = table_of(tmp_path, "here.png", f"{uri}/b.png", "there.png")
    assert list(reasons(read(alone, configuration)).values()) == [None, "denied", None]


@pytest.mark.parametrize("rows", [BAD_BUCKETS[:1] * 2, BAD_BUCKETS[:1]], ids=["two", "one"])
def test_a_table_whose_rows_are_all_in_no_bucket_stops_the_run(tmp_path, bucket, rows):
    _, configuration, _ = bucket
    with pytest.raises(TransientError, match=r"no such bucket.*refused twice"):
        read(table_of(tmp_path, *rows), configuration)


class Web(AbstractFileSystem):
    """A web client: the host `dead` does not answer, `cut` breaks off, and all others give the url back."""

    protocol = "https"
    cachable = False

    def _strip_protocol(self, path: str) -> str:
        return path

    def unstrip_protocol(self, name: str) -> str:
        return name

    def open(self, path: str, *_: object, **__: object) -> io.BytesIO:
        if "dead" in path:
            raise FileNotFoundError(path) from aiohttp.ClientConnectionError()
        if "gone" in path:
            raise FileNotFoundError(path)
        return CutOff() if "cut" in path else io.BytesIO(path.encode())


class CutOff(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise aiohttp.ClientPayloadError("the body ends early")


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(
        planned_images,
        "resolve_uri",
        lambda uri, *_: (SourceRoot(FsspecStorage(Web(), uri.rpartition("/")[0])), uri.rpartition("/")[2]),
    )


def test_web_servers_that_are_down_or_break_off_cost_their_rows(tmp_path, web):
    rows = [f"https://{host}.example/x.png" for host in ("good", "dead", "gone", "cut")]
    assert list(reasons(read(table_of(tmp_path, *rows))).values()) == [None, "denied", "missing", "denied"]


def test_a_web_of_which_nothing_answers_is_this_machines_network(tmp_path, web):
    rows = [f"https://{host}.example/x.png" for host in ("dead", "cut")]
    with pytest.raises(TransientError, match=REFUSED_BY_ALL):
        read(table_of(tmp_path, *rows))


def test_missing_credentials_cost_the_one_row_that_needs_them_and_stop_a_table_of_such(tmp_path, monkeypatch, bucket):
    uri, configuration, _ = bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    shard = read(table_of(tmp_path, "here.png", f"{uri}/a.png"), configuration)
    assert list(reasons(shard).values()) == [None, "denied"]
    assert shard.images[1].failure.message == "there are no credentials for the store that the uri names"
    with pytest.raises(TransientError, match=r"NoCredentialsError.*refused twice"):
        read(table_of(tmp_path, f"{uri}/a.png", f"{uri}/b.png", f"{uri}/c.png"), configuration)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_shard_that_is_refused_as_a_whole_is_denied_if_another_shard_is_given(tmp_path, locks):
    write_files(tmp_path, dict.fromkeys(("a.png", "b.png", "c.png"), b"x"))
    locks |= {"a.png", "b.png"}
    assert reasons(read(tmp_path, count=2)) == {"a.png": "denied", "b.png": "denied"}
