"""A web host that redirects to a signed url, and fails as a test tells it to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.builders.images import png
from tests.builders.sources import tar_bytes


class _Handler(BaseHTTPRequestHandler):
    """A host that redirects to a signed url of another one, which after a while fails as it is told to."""

    protocol_version = "HTTP/1.1"
    data = tar_bytes([(f"{number}.png", png(seed=number)) for number in range(8)])
    fails_after: int | None = None
    failure = 0
    signature = ""
    served: itertools.count

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.path.startswith("/cdn/"):
            self._answer(302, b"", Location=f"/cdn/set.tar?X-Amz-Signature={self.signature}")
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


@contextmanager
def redirecting_host(signature: str) -> Iterator[Any]:
    """Yield the class that answers, with its `url`; it redirects to a url with `signature`."""
    handler: Any = type("Handler", (_Handler,), {"served": itertools.count(), "signature": signature})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler
        server.shutdown()
        thread.join()
