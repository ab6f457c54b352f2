"""Secrets of a web SOURCE, in its query and in where its server redirects to: no error repeats them."""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.schemas.errors import PseudorisError
from pseudoris.store.sources import open_source
from tests.builders.images import png
from tests.builders.sources import tar_bytes

GIVEN, REDIRECTED = "hunter2", "swordfish"


class _Handler(BaseHTTPRequestHandler):
    """A host that redirects to a signed url of another one, which after a while fails as it is told to."""

    protocol_version = "HTTP/1.1"
    data = tar_bytes([(f"{number}.png", png(seed=number)) for number in range(8)])
    fails_after: int | None = None
    failure = 0
    served: itertools.count

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.path.startswith("/cdn/"):
            self._answer(302, b"", Location=f"/cdn/set.tar?X-Amz-Signature={REDIRECTED}")
            return
        if self.fails_after is not None and next(self.served) >= self.fails_after:
            if self.failure:
                self._answer(self.failure, b"")
            else:
                self.connection.close()
            return
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        body = self.data[int(start) : int(end) + 1 if end else None]
        last = int(start) + len(body) - 1
        self._answer(
            206 if "Range" in self.headers else 200, body, Content_Range=f"bytes {start}-{last}/{len(self.data)}"
        )

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body)), "Accept_Ranges": "bytes"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web():
    """Return the class that answers, with its `url`."""
    handler = type("Handler", (_Handler,), {"served": itertools.count()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


def read_all(source):
    with source.root.open(source.named[0]) as stream:
        stream.read()


@pytest.mark.parametrize("failure", [0, 403, 503])
def test_no_error_of_a_clients_repeats_where_a_server_redirected_it(web, caplog, failure):
    caplog.set_level(logging.DEBUG, logger="pseudoris")
    url = f"{web.url}/set.tar?sig={GIVEN}"
    config, limits = SourceConfig(allowed_query=("sig",), format="webdataset"), StorageConfig(patience_s=5)
    opened = open_source(url, config, limits=limits)
    assert len(list(opened.list())) == 8
    web.failure, web.fails_after = failure, 0
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
