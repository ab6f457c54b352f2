"""A web server of weights files, a hub among them, that fails as it is told to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import constants

from tests.builders.web import Answering, serving

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
        # Where every request is sent on to.
        self.redirect = ""
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


class _Handler(Answering):
    weights: WeightServer

    def do_HEAD(self) -> None:  # noqa: N802  # as http.server calls it
        if self._is_answered():
            return
        content = self.weights.find(self.path)
        if content is None:
            self.answer(404, headers={"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(200, headers=_described(content, 0))

    def do_GET(self) -> None:  # noqa: N802  # as http.server calls it
        asked = self.headers.get("Range")
        self.weights.requests.append((self.path, asked))
        if self._is_answered():
            return
        is_asked = self.path.startswith("/api/")
        fault, number = self.weights.faults.pop(0) if self.weights.faults and not is_asked else ("", 0)
        content = self.weights.find(self.path)
        if fault == "status" or content is None:
            self.answer(number or 404)
        elif fault == "page":
            self.answer(200, b"p" * number)
        elif fault == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.send(b"%x\r\n%b\r\n0\r\n\r\n" % (number, b"p" * number))
        else:
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            start = 0 if self.weights.ignores_ranges else start - (number if fault == "early" else 0)
            self._send(content, start, start + number if fault == "cut" else None)

    def _send(self, content: bytes, start: int, end: int | None) -> None:
        if start >= len(content):
            self.answer(416, headers={"Content-Range": f"bytes */{len(content)}"})
            return
        headers = _described(content, start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:end], headers)

    def _is_answered(self) -> bool:
        """Send a redirection or the hub's refusal, if there is one."""
        is_circle = self.weights.faults[:1] == [("circle", 0)]
        if place := self.weights.url + self.path if is_circle else self.weights.redirect:
            self.answer(302, headers={"Location": place})
            return True
        refusal = self.weights.refusal(self.path)
        if refusal is not None:
            self.answer(refusal[0], headers={"X-Error-Code": refusal[1], "X-Error-Message": refusal[2]})
        return refusal is not None


def _described(content: bytes, start: int) -> dict[str, str]:
    # The ETag is that of the hub's large files.
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    return {"Content-Length": str(len(content) - start), "X-Repo-Commit": COMMIT, "ETag": etag}


def use_as_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the hub of this process, as the variable HF_ENDPOINT does for a new one."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def serving_weights() -> Iterator[WeightServer]:
    handler = type("Handler", (_Handler,), {})
    with serving(handler) as url:
        handler.weights = WeightServer(url)
        yield handler.weights
