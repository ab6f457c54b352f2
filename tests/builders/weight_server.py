"""A web server of weights files, a hub among them, that fails as it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


class WeightServer:
    """Files by path. A path `/owner/repo/resolve/REVISION/FILE` is looked up as `/owner/repo/FILE`, as a hub has it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        # Each applies to one GET: a status, the number of bytes after which the connection breaks off, or the length of
        # a page that is sent instead ("page", or "chunked": without a Content-Length), or by how many bytes a range
        # begins before what was asked for ("early").
        # "circle" applies to all requests from then on.
        self.faults: list[tuple[str, int]] = []
        self.ignores_ranges = False
        # What the hub answers to anything about a repository: its code for it, and its message.
        self.refusals: dict[str, tuple[int, str, str]] = {}
        # What was asked with GET: path and Range.
        self.requests: list[tuple[str, str | None]] = []

    def find(self, path: str) -> bytes | None:
        listed = re.match(r"/api/models/([^/]+/[^/]+)/revision/", path)
        if listed:
            names = [name.removeprefix(f"/{listed[1]}/") for name in self.files if name.startswith(f"/{listed[1]}/")]
            return json.dumps({"id": listed[1], "siblings": [{"rfilename": name} for name in names]}).encode()
        return self.files.get(re.sub(r"/resolve/[^/]+/", "/", path))

    def refusal(self, path: str) -> tuple[int, str, str] | None:
        return next((refusal for repo, refusal in self.refusals.items() if f"/{repo}/" in path), None)


class _Handler(BaseHTTPRequestHandler):
    weights: WeightServer

    def do_HEAD(self) -> None:
        if self.weights.faults[:1] == [("circle", 0)]:
            self._redirect_to_itself()
            return
        if self._is_refused_by_hub():
            return
        content = self.weights.find(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self._describe(content, len(content))
        self.end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.weights.requests.append((self.path, asked))
        if self.weights.faults[:1] == [("circle", 0)]:
            self._redirect_to_itself()
            return
        if self._is_refused_by_hub():
            return
        is_asked = self.path.startswith("/api/")
        fault, number = self.weights.faults.pop(0) if self.weights.faults and not is_asked else ("", 0)
        content = self.weights.find(self.path)
        if fault == "status" or content is None:
            self._refuse(number or 404)
            return
        if fault in {"page", "chunked"}:
            self._send_page(number, is_chunked=fault == "chunked")
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        start = 0 if self.weights.ignores_ranges else start - (number if fault == "early" else 0)
        if start >= len(content):
            self._refuse(416, f"bytes */{len(content)}")
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self._describe(content, len(content) - start)
        self.end_headers()
        self.wfile.write(content[start : start + number] if fault == "cut" else content[start:])

    def _is_refused_by_hub(self) -> bool:
        refusal = self.weights.refusal(self.path)
        if refusal is not None:
            self.send_response(refusal[0])
            self.send_header("X-Error-Code", refusal[1])
            self.send_header("X-Error-Message", refusal[2])
            self.send_header("Content-Length", "0")
            self.end_headers()
        return refusal is not None

    def _redirect_to_itself(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.weights.url + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_page(self, num_bytes: int, *, is_chunked: bool) -> None:
        self.send_response(200)
        name, value = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(num_bytes))
        self.send_header(name, value)
        self.end_headers()
        page = b"p" * num_bytes
        # The client may hang up before the end.
        with suppress(ConnectionError):
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (num_bytes, page) if is_chunked else page)

    def _refuse(self, status: int, content_range: str = "") -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _describe(self, content: bytes, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("X-Repo-Commit", COMMIT)
        # As of the hub's large files.
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')

    def log_message(self, *_: object) -> None:
        pass


def use_as_hub(server: WeightServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the hub of this process, as the variable HF_ENDPOINT does for a new one."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )


@contextmanager
def serving_weights() -> Iterator[WeightServer]:
    """Serve on a free port of this machine for the block."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.weights = WeightServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield handler.weights
        finally:
            server.shutdown()
            thread.join()
