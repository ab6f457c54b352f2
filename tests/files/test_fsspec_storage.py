"""Objects behind fsspec: versions, order, and what clients raise."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from fsspec import AbstractFileSystem

from pseudoris.files.fsspec_storage import FsspecStorage
from pseudoris.primitives.errors import ConfigError, RefusedError, TransientError
from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.store.sources import open_source
from pseudoris.store.sources.patterns import ALL_FILES
from pseudoris.store.sources.root import SourceRoot
from tests.builders.web import Answering, serving


class Bucket(AbstractFileSystem):
    """A store that fails with this error, whatever is asked of it."""

    protocol = "bucket"
    cachable = False

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        raise self.error

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise self.error


class Versions(Bucket):
    """A store that answers as S3 does: quoted etags, an empty object for the folder itself, or a time alone."""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        modified = {"size": 1, "LastModified": datetime(2026, 1, 2, tzinfo=UTC)}
        found = {
            "": {"size": 0},
            "c.jpg": {"size": 2, "ETag": '"abc"'},
            "a.jpg": modified,
            "b.jpg": {"etag": "d", "size": 3},
        }
        return [{"name": f"b/set/{name}", "type": "file", **entry} for name, entry in found.items()]


def test_objects_come_in_the_order_of_their_keys_with_the_versions_that_plans_hold():
    files = list(FsspecStorage(Versions(OSError()), "b/set/").walk(ALL_FILES.may_descend))
    assert [(file.path, file.etag) for file in files] == [
        ("a.jpg", "modified-1767312000.0"),
        ("b.jpg", "d"),
        ("c.jpg", "abc"),
    ]


@pytest.mark.parametrize("size", [-5, 10**30])
def test_a_size_that_is_none_is_refused(monkeypatch, size):
    entry = {"name": "b/set/a.jpg", "type": "file", "size": size}
    monkeypatch.setattr(Versions, "ls", lambda *_, **__: [entry])
    monkeypatch.setattr(Versions, "info", lambda *_, **__: entry)
    storage = FsspecStorage(Versions(OSError()), "b/set/")
    for ask in (lambda: list(storage.walk(ALL_FILES.may_descend)), lambda: SourceRoot(storage).stat("a.jpg")):
        with pytest.raises(ConfigError, match=r"a\.jpg has (-5|1e\+30) bytes by its store, which is no size: repair"):
            ask()


def test_denied_access_is_the_users_to_mend_before_a_run_and_transient_in_its_midst():
    root = SourceRoot(FsspecStorage(Bucket(PermissionError("no")), "b/set"))
    for before in (lambda: root.kind(""), lambda: list(root.storage.walk(ALL_FILES.may_descend))):
        with pytest.raises(ConfigError, match="access to bucket://b/set is denied: grant these credentials"):
            before()
    with pytest.raises(TransientError, match=r"cannot look at bucket://b/set/a\.jpg: PermissionError"):
        root.stat("a.jpg")


class Web(Bucket):
    """A web client as fsspec's: it says "not found" of whatever went wrong."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise FileNotFoundError(path) from self.error

    def open(self, path: str, *_: Any, **__: Any) -> Any:
        self.info(path)


def http_error(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(None, (), status=status)


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        (http_error(403), RefusedError, r"its server does not give it \(403\)"),
        (http_error(503), RefusedError, "its server answers 503"),
        (aiohttp.ClientConnectionError(), RefusedError, r"it cannot be reached \(ClientConnectionError\)"),
        (TimeoutError(), RefusedError, r"it cannot be reached \(TimeoutError\)"),
        *((cause, FileNotFoundError, "a.png") for cause in (http_error(404), http_error(410), KeyError("a.png"), None)),
    ],
)
def test_what_a_web_server_does_not_have_is_missing_and_all_else_that_it_does_not_give_is_refused(cause, error, said):
    root = SourceRoot(FsspecStorage(Web(cause), "https://host"))
    with pytest.raises(error, match=said), root.open("a.png"):
        pytest.fail("it was opened")
    with pytest.raises(error, match=said):
        root.stat("a.png")


class _Answer(Answering):
    """Answers each request with the status that its path names; `silence` is never answered."""

    def do_GET(self) -> None:  # noqa: N802  # as http.server calls it
        if self.path.endswith("silence"):
            time.sleep(5)
        elif self.path.endswith("metadata"):
            self.answer(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})
        else:
            self.send_error(int(self.path[1:]))

    def do_HEAD(self) -> None:  # noqa: N802  # as http.server calls it
        self.do_GET()


@pytest.fixture(scope="module")
def web():
    """A real web server; its url."""
    with serving(_Answer) as url:
        yield url


@pytest.mark.parametrize(
    ("url", "expected", "said"),
    [
        ("http://127.0.0.1:1/a.jpg", TransientError, r"it cannot be reached \(ClientConnectorError\)"),
        ("http://no-such-host.invalid/a.jpg", ConfigError, "there is no host of this name"),
        ("{web}/silence", TransientError, r"it cannot be reached \((SocketTimeout|ServerTimeout|Timeout)Error\)"),
        ("{web}/503", TransientError, "its server answers 503"),
        ("{web}/404", ConfigError, "does not exist"),
        ("{web}/metadata", ConfigError, "its server redirects to a link-local address, which is never asked"),
    ],
)
def test_a_web_source_that_cannot_be_reached_is_not_said_to_be_missing(web, url, expected, said):
    limits = StorageConfig(read_timeout_s=0.5)
    url = url.format(web=web)
    started = time.monotonic()
    with pytest.raises(expected, match=said) as raised:
        open_source(url, SourceConfig(), limits=limits)
    assert url in str(raised.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionResetError("reset"), RuntimeError("of a client")])
def test_a_store_that_does_not_answer_is_transient(error):
    with pytest.raises(TransientError, match="cannot look at bucket://b/set"):
        SourceRoot(FsspecStorage(Bucket(error), "b/set")).kind("")
