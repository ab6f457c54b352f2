"""A bucket with any number of keys that answers only LIST (ListObjectsV2); keys are computed, not stored.

    python -m benchmarks.fake_bucket NUM_KEYS      # prints its endpoint, serves until it is ended

Keys are `data/<4 digits>/<8 digits>.jpg`, 10,000 below a prefix. Prefix, delimiter, start-after, continuation token and
max-keys mean what they mean on S3; every other request is answered 404. `GET /?requests` tells how many LISTs it was
asked for. A server of its own because those at hand keep every object: a million of them take moto an hour.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, urlsplit

BUCKET: Final = "synthetic"
KEYS_PER_PREFIX: Final = 10_000
_ROOT: Final = "data/"
_MAX_KEYS: Final = 1_000
_OBJECT: Final = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>100000</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a LIST: numbers of keys, common prefixes, and behind what the next page starts."""

    numbers: list[int]
    prefixes: list[str]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class KeySpace:
    """The keys of the bucket, ordered as their numbers are."""

    num_keys: int

    def key(self, number: int) -> str:
        """Return the key of a number."""
        return f"{_ROOT}{number // KEYS_PER_PREFIX:04d}/{number:08d}.jpg"

    def page(self, prefix: str = "", delimiter: str = "", after: str = "", max_keys: int = _MAX_KEYS) -> Page:
        """Return the first `max_keys` keys and common prefixes below `prefix` and behind `after`."""
        page = Page([], [], None)
        last = after
        number = max(self._behind(after), bisect_left(range(self.num_keys), prefix, key=self.key))
        while number < self.num_keys and (key := self.key(number)).startswith(prefix):
            if len(page.numbers) + len(page.prefixes) == max_keys:
                return Page(page.numbers, page.prefixes, last)
            head, slash, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if slash:
                page.prefixes.append(prefix + head + slash)
                # Behind all keys of the common prefix.
                last = prefix + head + slash + "\x7f"
                number = self._behind(last)
            else:
                page.numbers.append(number)
                last = key
                number += 1
        return page

    def _behind(self, after: str) -> int:
        return bisect_right(range(self.num_keys), after, key=self.key)


@contextmanager
def served(num_keys: int) -> Iterator[str]:
    """Serve the bucket from a process of its own inside the block; give its endpoint."""
    command = [sys.executable, "-m", "benchmarks.fake_bucket", str(num_keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def num_requests(endpoint: str) -> int:
    """Return how many LISTs the bucket was asked for so far."""
    with urllib.request.urlopen(f"{endpoint}/?requests") as answer:
        return int(answer.read())


@dataclass(slots=True)
class _Counter:
    value: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self) -> None:
        with self.lock:
            self.value += 1


def _xml(space: KeySpace, page: Page, prefix: str) -> str:
    parts = [_OBJECT.format(key=space.key(number), number=number) for number in page.numbers]
    parts += [f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in page.prefixes]
    if page.next_after is not None:
        parts.append(f"<NextContinuationToken>{page.next_after.encode().hex()}</NextContinuationToken>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><MaxKeys>{_MAX_KEYS}</MaxKeys>"
        f"<KeyCount>{len(page.numbers) + len(page.prefixes)}</KeyCount>"
        f"<IsTruncated>{str(page.next_after is not None).lower()}</IsTruncated>{''.join(parts)}</ListBucketResult>"
    )


def _handler(space: KeySpace) -> type[BaseHTTPRequestHandler]:
    counter = _Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            given = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            if "requests" in given:
                self._answer(200, str(counter.value))
            elif given.get("list-type") == "2" and url.path.strip("/") == BUCKET:
                counter.add()
                token = bytes.fromhex(given.get("continuation-token", "")).decode()
                prefix = given.get("prefix", "")
                max_keys = min(int(given.get("max-keys", _MAX_KEYS)), _MAX_KEYS)
                after = token or given.get("start-after", "")
                page = space.page(prefix, given.get("delimiter", ""), after, max_keys)
                self._answer(200, _xml(space, page, prefix))
            else:
                self._answer(404, "")

        def do_HEAD(self) -> None:
            self._answer(404, "")

        def _answer(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a line a page costs more than the page."""

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(KeySpace(int(sys.argv[1]))))
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
