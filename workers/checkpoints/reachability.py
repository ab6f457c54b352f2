"""Whether a web server answers, told within seconds: without a network, retries and name servers take minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

import httpx2

# A name server that does not answer is waited for by the system, without regard to a timeout of ours.
DEADLINE_S: Final = 4.0
# For so long an answer holds: the files of a preset ask one after the other.
_MEMORY_S: Final = 30.0


class _Question:
    """A request to a server, under way in a thread of its own."""

    def __init__(self, origin: str) -> None:
        self.asked_s = time.monotonic()
        self._origin = origin
        self._is_answered = threading.Event()
        self._reason: str | None = None
        threading.Thread(target=self._ask, daemon=True).start()

    def reason(self) -> str | None:
        """Wait for what is left of the deadline, and return why the server does not answer."""
        if not self._is_answered.wait(max(0.0, self.asked_s + DEADLINE_S - time.monotonic())):
            return f"no answer within {DEADLINE_S:.0f} s"
        return self._reason

    def _ask(self) -> None:
        try:
            httpx2.head(self._origin, timeout=DEADLINE_S)
        # The latter two: a proxy in the environment that is none.
        except (httpx2.HTTPError, ValueError, ImportError) as error:
            text = str(error) or type(error).__name__
            # Its certificate is the business of the request that follows.
            self._reason = None if "CERTIFICATE" in text.upper() else text
        self._is_answered.set()


_questions: dict[str, _Question] = {}


def ask_servers(urls: Iterable[str]) -> None:
    """Ask the servers of all urls at the same time, and return before they answer."""
    for url in urls:
        _question(url)


def unreachable_reason(url: str) -> str | None:
    """Return why the server of a url cannot be reached, as a short text; None if it answers anything at all."""
    return _question(url).reason()


def host(url: str) -> str:
    """Return the name of the server."""
    return httpx2.URL(url).host


def _question(url: str) -> _Question:
    parsed = httpx2.URL(url)
    origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}/"
    known = _questions.get(origin)
    if known is None or time.monotonic() - known.asked_s > _MEMORY_S:
        known = _questions[origin] = _Question(origin)
    return known
