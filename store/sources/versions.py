"""The version of a file that the plan names, and reading no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from schemas.errors import ConfigError, ImageError, TransientError
from store.sources.faults import transient_faults
from store.sources.items import Storage, StoredFile

OTHER_ETAG: Final = "its etag is not the planned one"


def refuse_change(found: StoredFile, expected: StoredFile) -> None:
    """Accept a file that is the expected version, as far as `expected` says one.

    Raises:
        ImageError: `changed` where it is not.
    """
    if expected.etag is not None and found.etag != expected.etag:
        raise ImageError("changed", OTHER_ETAG)
    if expected.mtime_ns is not None and found.mtime_ns != expected.mtime_ns:
        raise ImageError("changed", "its time of modification is not the planned one")
    if expected.size_bytes is not None and found.size_bytes != expected.size_bytes:
        raise ImageError("changed", "its size is not the planned one")


@contextmanager
def looked_at_twice(storage: Storage, path: str, expected: StoredFile) -> Iterator[BinaryIO]:
    """Open a file for the block, and look at it before and after: for storages that read on no condition.

    Raises:
        ImageError: `changed`: what was read inside the block must not be used.
        FileNotFoundError: There is none.
    """
    refuse_change(storage.stat(path), expected)
    with storage.open(path) as stream:
        yield stream
    refuse_change(storage.stat(path), expected)


@contextmanager
def listed_version(storage: Storage, file: StoredFile, *, window_bytes: int) -> Iterator[BinaryIO]:
    """Open a file for the block, to look into what was just listed.

    Raises:
        ConfigError: It vanished since.
        TransientError: It changed since, or the storage failed.
    """
    uri = storage.describe(file.path)
    try:
        with (
            transient_faults("read", uri, faults=storage.faults),
            storage.reading(file.path, file, window_bytes=window_bytes) as stream,
        ):
            yield stream
    except ImageError as error:
        raise TransientError(f"{uri} changed while it was listed: run the same command again") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{uri} vanished while SOURCE was listed: run the same command again") from error
