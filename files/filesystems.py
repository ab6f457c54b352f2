"""Opens a path or fsspec url that a setting names. Called by `checkpoints`, `masks` and `stages`.

A pipe or device must never be opened, because it could block for ever; nor may a path be read as a chain of urls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pseudoris.primitives.errors import PseudorisError
from pseudoris.primitives.untrusted import open_linked
from pseudoris.primitives.uris import client_error


def filesystem_at(location: str) -> tuple[Any, str]:
    """Return the file system of a path or fsspec url, and the path in it.

    A path without `://` is taken as it is. fsspec would read `a::b` as a chain of two.

    Raises:
        ValueError: The protocol is unknown.
        ImportError: Its package is missing.
    """
    # fsspec looks for all its plug-ins when it is imported. Most runs name no such place, and need not wait for that.
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in location:
        return LocalFileSystem(), location
    filesystem, path = fsspec.url_to_fs(location, use_listings_cache=False)
    return filesystem, path


def open_location(location: str) -> Any:
    """Return the file at a path or fsspec url, opened for reading bytes, before a run: a client may fail to start.

    Raises also what `open_at` raises.
    """
    filesystem, path = filesystem_at(location)
    with client_errors(location):
        return open_at(filesystem, path)


def open_at(filesystem: Any, path: str) -> Any:
    """Return a file of a file system, opened for reading bytes.

    Raises:
        ConfigError: On a disk it is a pipe or a device, which could block for ever.
        Exception: As the file system.
    """
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):
        return open_linked(Path(filesystem._strip_protocol(path)))
    return filesystem.open(path, "rb")


@contextmanager
def client_errors(uri: str) -> Iterator[None]:
    """Convert what the client of a store raises of its own, before it asks, to a `ConfigError`."""
    try:
        yield
    except (PseudorisError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise client_error(error, uri) from error
