"""Web servers on a free port of this machine: what answers, and serving it for a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answering(BaseHTTPRequestHandler):
    """Says nothing of the requests that it answers."""

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send(body)

    def send(self, body: bytes) -> None:
        """Send bytes of a body; the client may hang up before its end."""
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Files(Answering, SimpleHTTPRequestHandler):
    """Gives the files of a folder."""


class _Patient(ThreadingHTTPServer):
    # A browser asks for many pictures at once; by default the sixth in the queue is refused.
    request_queue_size = 128


def serving_folder(folder: Path) -> AbstractContextManager[str]:
    """Serve a folder during the block, as a static bucket does; its url."""
    return serving(partial(_Files, directory=str(folder)))


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the url at which a handler answers during the block."""
    with _Patient(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
