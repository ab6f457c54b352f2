"""Secrets of a web SOURCE, in its query and in where its server redirects to: a run repeats none of them."""

from __future__ import annotations

import itertools
import logging
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.images import png
from tests.builders.runs import SMALL, STUBS
from tests.builders.sources import tar_bytes

GIVEN, REDIRECTED = "hunter2", "swordfish"
SETTINGS = [
    word
    for each in (*STUBS, *SMALL, "source.allowed_query=[sig]", "source.format=webdataset")
    for word in ("--set", each)
]


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


def holding(folder: Path, secret: str) -> list[str]:
    """Return the files below a folder that hold a secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_repeats_no_query_of_its_source_whatever_its_server_does(ray_session, web, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="pseudoris")
    url = f"{web.url}/set.tar?sig={GIVEN}"
    for number, (failure, after) in enumerate(((0, None), (403, 1), (0, 2), (503, 3))):
        web.served, web.failure, web.fails_after = itertools.count(), failure, after
        out = str(tmp_path / f"out{number}")
        words = ("annotate", url, out, *SETTINGS, "--set", "placement.storage.patience_s=2", *OPTIONS)
        ended = pseudoris_here(*words)
        assert after is not None or ended.returncode == 0, ended.stderr
        for command in ("status", "stats", "verify", "gallery"):
            shown = pseudoris_here(command, out)
            ended.stdout += shown.stdout + shown.stderr
        for secret in (GIVEN, REDIRECTED):
            assert secret not in ended.stdout + ended.stderr + caplog.text
            assert holding(Path(ray_session), secret) == []
        assert holding(tmp_path, REDIRECTED) == []
