"""What an S3 store may answer: fields that must be there, listings that go on, and redirects that end.

`s3_requests` sends the requests; an answer that breaks these rules ends the command with the store's fault by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, NoReturn

from botocore.exceptions import ClientError

from pseudoris.schemas.errors import ConfigError

_REMEDY: Final = "Check the endpoint, update the store, or use another one"
# A bucket with many deleted versions may list nothing in a page, and go on.
_MAX_EMPTY_PAGES: Final = 100
# Whether the client has asked for the bucket's region, in the request that is under way.
_ASKED_REGION: Final = ContextVar("_ASKED_REGION", default=False)


class Answer(dict[str, Any]):
    """What the store said. A field that it left out raises a ConfigError."""

    def __missing__(self, name: str) -> NoReturn:
        """Tell the store's fault."""
        raise ConfigError(f"the store's answer has no {name}, against S3's rules. {_REMEDY}")

    def all(self, name: str) -> list[Answer]:
        """Return the entries of a list, which is left out if it is empty."""
        return [Answer(each) for each in self.get(name, ())]


class Course:
    """The course of one listing: each page goes on after the one before, so that the listing ends."""

    def __init__(self, uri: str, last: str = "") -> None:
        """Begin after the key `last`, below `uri`."""
        self._uri = uri
        self._last = last
        self._num_empty = 0

    def take(self, keys: list[str], prefixes: list[str], below: str) -> list[str]:
        """Accept a page and return its new prefixes: a store may give the last one again, for keys that are left of it.

        Raises:
            ConfigError: Something is not after all of the page before, or not `below` the listed prefix.
        """
        new = [each for each in prefixes if each != self._last]
        found = [*keys, *new]
        if not all(each > self._last and each.startswith(below) for each in found):
            self._refuse("repeats keys, or has keys of another folder")
        self._last = max([self._last, *found])
        self.count(len(found))
        return new

    def count(self, num_new: int) -> None:
        """Accept a page with so many new entries; ConfigError if too many pages had none."""
        self._num_empty = 0 if num_new else self._num_empty + 1
        if self._num_empty > _MAX_EMPTY_PAGES:
            self._refuse(f"goes on after {_MAX_EMPTY_PAGES} pages with nothing new")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(f"cannot list {self._uri}: the store's listing {what}. {_REMEDY}")


def etag_of(described: Mapping[str, Any]) -> str:
    """Return the etag of an object as a store describes it, without quotes."""
    return str(described["ETag"]).removeprefix("W/").strip('"')


def ask_region_once(client: Any) -> None:
    """Make a client that is redirected ask for the bucket's region once.

    If the store redirects that question too, the client would ask again, without end.
    """
    client.meta.events.register("before-call.s3.HeadBucket", _refuse_second, unique_id="pseudoris-region")


def _refuse_second(**_: Any) -> None:
    if _ASKED_REGION.get():
        raise ClientError({"ResponseMetadata": {"HTTPHeaders": {}}}, "HeadBucket")
    _ASKED_REGION.set(True)
