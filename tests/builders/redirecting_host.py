"""A web host that redirects to a signed url, and fails as a test tells it to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.builders.images import png
from tests.builders.sources import tar_bytes
from tests.builders.web import Answering, serving


class _Handler(Answering):
    """A host that redirects to a signed url of another one, which after a while fails as it is told to."""

    protocol_version = "HTTP/1.1"
    data = tar_bytes([(f"{number}.png", png(seed=number)) for number in range(8)])
    fails_after: int | None = None
    failure = 0
    signature = ""
    served: itertools.count

    def do_HEAD(self) -> None:  # noqa: N802  # as http.server calls it
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802  # as http.server calls it
        if not self.path.startswith("/cdn/"):
            self.answer(302, headers={"Location": f"/cdn/set.tar?X-Amz-Signature={self.signature}"})
        elif self.fails_after is not None and next(self.served) >= self.fails_after:
            if self.failure:
                self.answer(self.failure)
            else:
                self.connection.close()
        else:
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            body = self.data[int(start) : int(end) + 1 if end else None]
            last = int(start) + len(body) - 1
            range_of_all = {"Content-Range": f"bytes {start}-{last}/{len(self.data)}", "Accept-Ranges": "bytes"}
            self.answer(206 if "Range" in self.headers else 200, body, range_of_all)


@contextmanager
def redirecting_host(signature: str) -> Iterator[Any]:
    """Yield the class that answers, with its `url`; it redirects to a url with `signature`."""
    handler: Any = type("Handler", (_Handler,), {"served": itertools.count(), "signature": signature})
    with serving(handler) as handler.url:
        yield handler
