"""What a bucket answers, in our terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing or a look at it tells.

    Attributes:
        key: In its bucket.
        size_bytes: Its size.
        etag: Without quotes.
        modified_s: Seconds since the epoch, by the store's clock.
    """

    key: str
    size_bytes: int
    etag: str
    modified_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: at most 1,000 objects and common prefixes, one request."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes of an object: what was asked for, and the whole object's size and etag."""

    data: bytes
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not completed.

    Attributes:
        key: Of the object that it was to become.
        upload_id: The store's name for it.
        started_s: Seconds since the epoch.
    """

    key: str
    upload_id: str
    started_s: float
