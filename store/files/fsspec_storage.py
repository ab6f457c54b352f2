"""Object stores other than S3, through fsspec (`gs://…`, `az://…`). Objects are put whole and never renamed.

The store's own client retries requests. For S3 `s3_requests` does.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

import aiohttp
import fsspec

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files.key_order import path_key
from pseudoris.store.files.storage import (
    Kind,
    ListedFile,
    Mark,
    MayDescend,
    StoredFile,
    UnansweredError,
    Upload,
    checked_twice,
    listing_errors,
    storage_errors,
)

# Names that stores give to the modification time, the most common ones first.
_TIMES: Final = ("LastModified", "mtime", "modified", "updated", "last_modified", "created")
# Plans hold versions made of these, so the list must not change. It never had "last_modified".
_VERSION_TIMES: Final = ("LastModified", "mtime", "modified", "updated", "created")


class FsspecStorage:
    """A prefix in an object store, as `Storage` describes it.

    A put is atomic on object stores: a reader sees the old object or the new one, never part of one.

    Attributes:
        faults: All exceptions, because the clients below fsspec have no common base class for lost connections.
        max_readers: Number of objects that are worth reading in parallel.
    """

    faults: tuple[type[Exception], ...] = (Exception,)
    max_readers: int = 8

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        """Set the prefix `root`, in the form that the file system uses."""
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def at(cls, uri: str, limits: StorageConfig) -> Self:
        """Return the storage at `uri`. No request is made yet.

        Args:
            uri: Of a folder or a file.
            limits: Timeouts of a web server. Clients of other stores have their own.

        Raises:
            ConfigError: The protocol is unknown, or its package is missing.
        """
        waits = aiohttp.ClientTimeout(
            limits.patience_s, sock_connect=limits.connect_timeout_s, sock_read=limits.read_timeout_s
        )
        options = {"client_kwargs": {"timeout": waits}} if uri.startswith(("http://", "https://")) else {}
        try:
            # A cached listing would hide what other processes write.
            with storage_errors("open", uri):
                filesystem, root = fsspec.url_to_fs(uri, use_listings_cache=False, **options)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {uri!r}: {error}. Give a local path or s3://bucket/prefix") from None
        return cls(filesystem, root)

    def uri(self, path: str = "") -> str:
        """Return the object's uri with its protocol, `gs://bucket/prefix/…`."""
        return str(self._filesystem.unstrip_protocol(self._at(path)))

    def kind(self, path: str) -> Kind:
        """Return what exists at `path`. A folder is a prefix of at least one object."""
        try:
            found = self._info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = _web_failure(error)
            # Some servers refuse a name that does not exist.
            if failure is None or type(failure) is PermissionError:
                return None
            raise failure from error
        return "file" if found["type"] == "file" else "folder"

    def stat(self, path: str) -> StoredFile:
        """Return the object's current version."""
        with _web_refusals():
            found = self._info(path)
        if found["type"] != "file":
            raise FileNotFoundError(path)
        return StoredFile(path, found["size"], etag=_version(found))

    def read(self, path: str) -> bytes:
        """Return the whole object."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the object opened for ranged reading, with the client's own block size."""
        with _web_refusals(), _client_errors():
            return cast("BinaryIO", self._filesystem.open(self._at(path), "rb"))

    def open_version(
        self, path: str, expected: StoredFile, *, window_bytes: int = 0
    ) -> AbstractContextManager[BinaryIO]:
        """Open the expected version. It is checked before and after the block."""
        return checked_twice(self, path, expected)

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, in any order; nothing if there are none."""
        try:
            entries = self._ls(self._at(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            name = entry["name"].rpartition("/")[2]
            if entry["type"] == "file" and name.startswith(name_prefix):
                yield ListedFile(name, int(entry["size"]), _modified_s(entry))

    def obstacle(self, path: str) -> None:
        """Return None: a store holds only objects."""

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the names of the folders directly below `folder`."""
        try:
            entries = self._ls(self._at(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry["type"] == "directory":
                yield entry["name"].rstrip("/").rpartition("/")[2], "a folder"

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys; memory grows with the largest single folder."""
        shut = None if exclude is None else self._filesystem._strip_protocol(exclude).rstrip("/")
        yield from self._walk((), may_descend, shut, mark)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield nothing: an unfinished put leaves no object."""
        yield from ()

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield nothing: the client manages its uploads."""
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        """Do nothing: the client manages its uploads."""

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object if there is none; return False if it exists.

        If the client's first try succeeds without an answer, its retry also gives False. Callers that must know read
        the object back.
        """
        try:
            with _client_errors():
                self._filesystem.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Write the object, and replace any existing one."""
        with _client_errors():
            self._filesystem.pipe_file(self._at(path), data)

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a local file, and replace any existing one."""
        with _client_errors():
            self._filesystem.put_file(str(local), self._at(path))

    def temporary_path(self, path: str) -> Path | None:
        """Return None: `put_file` copies."""
        return None

    def delete(self, path: str) -> None:
        """Delete the object if it exists."""
        try:
            with _client_errors():
                self._filesystem.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def _walk(
        self, parts: tuple[str, ...], may_descend: MayDescend, shut: str | None, mark: Mark | None
    ) -> Iterator[StoredFile]:
        folder = self._at("/".join(parts))
        with listing_errors("list", self.uri("/".join(parts)), faults=self.faults):
            entries = self._ls(folder)
        named = [(entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in entries]
        if mark is not None and parts and mark.name in dict(named) and mark.closes("/".join(parts)):
            return
        for name, entry in sorted(named, key=_order):
            path = (*parts, name)
            full = entry["name"].rstrip("/")
            # Consoles create an empty object for the folder itself.
            if full == folder or not name:
                continue
            if entry["type"] == "file":
                yield StoredFile("/".join(path), entry["size"], etag=_version(entry))
            elif full != shut and may_descend(path):
                yield from self._walk(path, may_descend, shut, mark)

    def _info(self, path: str) -> Mapping[str, Any]:
        with _client_errors():
            return cast("Mapping[str, Any]", self._filesystem.info(self._at(path)))

    def _ls(self, folder: str) -> Sequence[Mapping[str, Any]]:
        with _client_errors():
            return cast("Sequence[Mapping[str, Any]]", self._filesystem.ls(folder, detail=True))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


@contextmanager
def _client_errors() -> Iterator[None]:
    """Convert a client's own errors to OSError. Their text is dropped, because it may hold a signed url."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"the store's client raised {type(error).__name__}") from error


@contextmanager
def _web_refusals() -> Iterator[None]:
    """Convert FileNotFoundError of a web client, unless the server says that there is no such file."""
    try:
        yield
    except FileNotFoundError as error:
        failure = _web_failure(error)
        if failure is None:
            raise
        raise failure from error


def _web_failure(error: OSError) -> OSError | None:
    """Return why a web client has no answer about a file; None if the server says that there is no such file.

    The client says "not found" of a server that is down, slow or refuses as well.
    """
    cause = error.__cause__
    status = getattr(cause, "status", 0)
    if not isinstance(cause, aiohttp.ClientError | TimeoutError) or status in (404, 410):
        return None
    name = type(cause).__name__
    if isinstance(cause, aiohttp.TooManyRedirects | aiohttp.InvalidURL):
        return OSError(errno.ELOOP, f"its url leads nowhere ({name})")
    if 400 <= status < 500:
        return PermissionError(errno.EACCES, f"its server does not give it ({status})")
    failure = f"its server answers {status}" if status else f"it cannot be reached ({name})"
    return UnansweredError(errno.EACCES, f"{failure}: check the host's name and the network")


def _order(named: tuple[str, Mapping[str, Any]]) -> str:
    name, entry = named
    return path_key(name) + ("" if entry["type"] == "file" else "/")


def _version(entry: Mapping[str, Any]) -> str | None:
    """Return the object's etag, or a version made of the modification time if the store has no etags."""
    for name in ("ETag", "etag"):
        if entry.get(name):
            return str(entry[name]).strip('"')
    for name in _VERSION_TIMES:
        value = entry.get(name)
        if value is not None:
            return f"modified-{value.timestamp() if isinstance(value, datetime) else value}"
    return None


def _modified_s(entry: Mapping[str, Any]) -> float:
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    # The store keeps no times. Treat the object as very old.
    return 0.0
