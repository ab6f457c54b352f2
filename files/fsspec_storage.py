"""Storage through fsspec: the web, and every object store but S3 (`gs://…`, `az://…`). Opened by `location`.

Objects are put whole and never renamed. The store's own client retries; for S3 `s3_requests` does. Versions in plans
are made here: `_version` must give the same text for the same object in every release. `hub_storage` extends it.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast
from urllib.parse import urlsplit

import fsspec

from pseudoris.files.key_order import path_key
from pseudoris.files.storage import (
    InsecureError,
    Kind,
    ListedFile,
    Mark,
    MayDescend,
    Storage,
    StoredFile,
    UnansweredError,
    is_unknown_host,
    listing_errors,
    storage_errors,
)
from pseudoris.primitives.errors import ConfigError, PseudorisError
from pseudoris.primitives.uris import client_error, is_link_local
from pseudoris.schemas.config import StorageConfig

# Stores have different names for the modification time. The most common names come first.
_TIMES: Final = ("LastModified", "mtime", "modified", "updated", "last_modified", "created")
# Stored plans hold versions that are made of one of these times, so this list must never change.
_VERSION_TIMES: Final = ("LastModified", "mtime", "modified", "updated", "created")
_LINK_LOCAL: Final = "a link-local address, which is never asked"


class FsspecStorage(Storage):
    """A prefix in an object store, as `Storage` describes it.

    A put is atomic: a reader sees the old object or the new one. The client manages its uploads.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        """Set the prefix `root`, in the form that the file system uses."""
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def at(cls, uri: str, limits: StorageConfig) -> Self:
        """Return the storage at `uri`, of a folder or a file; ConfigError if its protocol is unknown or not installed.

        `limits` hold for web servers. No request is made yet.
        """
        options: dict[str, Any] = {}
        if uri.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            waits = limits.connect_timeout_s, limits.read_timeout_s
            timeout = ClientTimeout(limits.patience_s, sock_connect=waits[0], sock_read=waits[1])
            options = {"client_kwargs": {"timeout": timeout}, "get_client": _web_client}
        try:
            # Listings are not cached, because a cached listing would hide what other processes write.
            with storage_errors("open", uri):
                filesystem, root = fsspec.url_to_fs(uri, use_listings_cache=False, **options)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {uri!r}: {error}. Give a local path or s3://bucket/prefix") from None
        except (PseudorisError, MemoryError):
            raise
        except Exception as error:
            raise client_error(error, uri) from error
        return cls(filesystem, root)

    def uri(self, path: str = "") -> str:
        """Return the object's uri with its protocol, `gs://bucket/prefix/…`."""
        return str(self._filesystem.unstrip_protocol(self._at(path)))

    def kind(self, path: str) -> Kind:
        """Return what exists at `path`. A folder is a prefix of at least one object."""
        try:
            found = self._request("info", path)
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = _web_failure(error)
            # Some servers refuse access to a name that does not exist, so a refusal counts as a missing file.
            if failure is None or type(failure) is PermissionError:
                return None
            raise failure from error
        return "file" if found["type"] == "file" else "folder"

    def stat(self, path: str) -> StoredFile:
        """Return the object's current version."""
        with _web_refusals():
            found = self._request("info", path)
        if found["type"] != "file":
            raise FileNotFoundError(path)
        return StoredFile(path, found["size"], etag=_version(found))

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the object opened for ranged reading, with the client's own block size."""
        with _web_refusals():
            return cast("BinaryIO", self._request("open", path, "rb"))

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, in any order; nothing if there are none."""
        with suppress(FileNotFoundError):
            for name, entry in self._below(folder):
                if entry["type"] == "file" and name.startswith(name_prefix):
                    yield ListedFile(name, int(entry["size"]), _modified_s(entry))

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the names of the folders directly below `folder`."""
        with suppress(FileNotFoundError):
            for name, entry in self._below(folder):
                if entry["type"] == "directory":
                    yield name, "a folder"

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys; memory grows with the largest single folder."""
        shut = None if exclude is None else self._filesystem._strip_protocol(exclude).rstrip("/")
        yield from self._walk((), may_descend, shut, mark)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object if there is none; return False if it exists.

        If the client's first try succeeds without an answer, its retry also gives False. Callers that must know read
        the object back.
        """
        try:
            self._request("pipe_file", path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Write the object, and replace any existing one."""
        self._request("pipe_file", path, data)

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a local file, and replace any existing one."""
        with self._errors():
            self._filesystem.put_file(str(local), self._at(path))

    def delete(self, path: str) -> None:
        """Delete the object if it exists."""
        with suppress(FileNotFoundError):
            self._request("rm_file", path)

    @staticmethod
    @contextmanager
    def _errors() -> Iterator[None]:
        """Convert a client's own errors to OSError. Their text is dropped, because it may hold a signed url."""
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            # Of a store without space, as WebDAV and its kin answer it.
            statuses = (getattr(error, name, None) for name in ("status", "status_code", "code"))
            number = errno.ENOSPC if 507 in statuses else errno.EIO
            raise OSError(number, f"the store's client raised {type(error).__name__}") from error

    def _walk(
        self, parts: tuple[str, ...], may_descend: MayDescend, shut: str | None, mark: Mark | None
    ) -> Iterator[StoredFile]:
        folder = "/".join(parts)
        with listing_errors("list", self.uri(folder), faults=self.faults):
            named = self._below(folder)
        if mark is not None and parts and not dict(named).keys().isdisjoint(mark.names) and mark.closes(folder):
            return
        # A folder is sorted by its name with a slash, because the keys of its files have that slash.
        for name, entry in sorted(named, key=lambda each: path_key(each[0]) + "/" * (each[1]["type"] != "file")):
            path = (*parts, name)
            if entry["type"] == "file":
                yield StoredFile("/".join(path), entry["size"], etag=_version(entry))
            elif entry["name"].rstrip("/") != shut and may_descend(path):
                yield from self._walk(path, may_descend, shut, mark)

    def _request(self, operation: str, path: str, *given: object, **options: object) -> Any:
        """Call the client's `operation` on an object or folder, with its own errors converted."""
        with self._errors():
            return getattr(self._filesystem, operation)(self._at(path), *given, **options)

    def _below(self, folder: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return name and entry of each object and folder directly below `folder`."""
        at = self._at(folder)
        named = ((entry["name"].rstrip("/"), entry) for entry in self._request("ls", folder, detail=True))
        # Web consoles create an empty object that represents the folder itself. It is left out, because it is no file.
        return [(full.rpartition("/")[2], entry) for full, entry in named if full not in ("", at)]

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


async def _web_client(**options: Any) -> Any:
    from aiohttp import ClientSession, InvalidURL, TraceConfig

    async def refuse_link_local(_: object, __: object, redirect: Any) -> None:
        headers = redirect.response.headers
        # A relative address stays with its host.
        if is_link_local(urlsplit(headers.get("Location") or headers.get("URI", "")).hostname or ""):
            raise InvalidURL(_LINK_LOCAL)

    trace = TraceConfig()
    trace.on_request_redirect.append(refuse_link_local)
    return ClientSession(trace_configs=[trace], **options)


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
    """Return why a web client has no answer about a file; None if the server says that there is no such file."""
    # The cause decides, because the client raises FileNotFoundError also if a server is down, slow or refuses.
    cause = error.__cause__
    # aiohttp is not imported here: if no other code has imported it, the error does not come from a web client.
    aiohttp: Any = sys.modules.get("aiohttp")
    status = getattr(cause, "status", 0)
    if aiohttp is None or not isinstance(cause, aiohttp.ClientError | TimeoutError) or status in (404, 410):
        return None
    name = type(cause).__name__
    if isinstance(cause, aiohttp.ClientSSLError):
        return InsecureError(errno.EACCES, f"it is not served as https ({name}): check the url and the certificates")
    if is_unknown_host(cause):
        return InsecureError(errno.EACCES, f"there is no host of this name ({name}): check the url")
    if isinstance(cause, aiohttp.InvalidURL) and str(cause) == _LINK_LOCAL:
        return InsecureError(errno.EACCES, f"its server redirects to {_LINK_LOCAL}: check the url")
    if isinstance(cause, aiohttp.TooManyRedirects | aiohttp.InvalidURL):
        return OSError(errno.ELOOP, f"its url leads nowhere ({name})")
    if 400 <= status < 500:
        return PermissionError(errno.EACCES, f"its server does not give it ({status})")
    failure = f"its server answers {status}" if status else f"it cannot be reached ({name})"
    return UnansweredError(errno.EACCES, f"{failure}: check the host's name and the network")


def _version(entry: Mapping[str, Any]) -> str | None:
    """Return the object's etag, or a version made of the modification time if the store has no etags."""
    for name in ("ETag", "etag", "blob_id"):
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
    # This store keeps no times, so the object counts as very old.
    return 0.0
