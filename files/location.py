"""Opens a folder with its storage, by path or uri: a run, an export, a gallery. Called by every room that has files.

All reads and writes of a run go through `RunLocation`, whose errors name the full path. A store without conditional
writes is refused before a run (`probe`), because commits would not be safe there.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from inspect import isgenerator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from pseudoris.files.local_storage import LocalStorage
from pseudoris.files.storage import (
    ListedFile,
    NotImplementedByStoreError,
    Storage,
    Upload,
    shown_uri,
    storage_errors,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.untrusted import printable
from pseudoris.primitives.uris import named_path, refuse_secrets
from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.run_records import HEADER_NAME

__all__ = ["ListedFile", "RunLocation", "Upload"]

LOCAL_PROTOCOLS: Final = ("file", "local")
S3_PROTOCOLS: Final = ("s3", "s3a")
# Ray unpacks a job's working directory below this folder and deletes it later, so a relative path there is refused.
_RAY_FOLDER: Final = "/runtime_resources/working_dir_files/"
# Probe files have such names. A probe deletes its file at once, so one is left only if its process is killed.
PROBE_NAME: Final = re.compile(r"_probe-[0-9a-f]{16}")
# What may lie in a folder that a command fills: hidden entries, what a disk has, logs and settings of jobs.
_BESIDE: Final = re.compile(r"\..*|lost\+found|logs?|.*\.(?:log|out|err|ya?ml)")
_NUM_SHOWN: Final = 3
_NEEDED: Final = "commits would not be safe. Use a store with conditional writes: AWS S3, MinIO, Ceph, or a local disk"
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def storage_at(
    uri: str,
    endpoint_url: str | None = None,
    limits: StorageConfig | None = None,
    *,
    follows_links: bool = True,
    requester_pays: bool = False,
) -> Storage:
    """Return the storage whose root is `uri`, a path or an fsspec url; it need not exist, and no request is made yet.

    `endpoint_url` is that of an S3 store other than AWS; None uses AWS_ENDPOINT_URL of the environment. `limits` hold
    for S3 and web servers. Links below a local folder are refused without `follows_links`. With `requester_pays`,
    requests to S3 say that their sender pays. ConfigError if the protocol is unknown, or its package is missing.
    """
    folder = local_path(uri)
    if folder is not None:
        return LocalStorage(folder, follows_links=follows_links)
    # The clients of buckets and of the web are imported here, so that a local run never loads them.
    protocol = uri.partition("://")[0]
    if protocol in (*S3_PROTOCOLS, "http", "https", "hf"):
        require_extra("remote", uri)
    if protocol in S3_PROTOCOLS:
        from pseudoris.files.s3_storage import S3Storage

        return S3Storage.at(uri, endpoint_url, limits or StorageConfig(), requester_pays=requester_pays)
    if protocol == "hf":
        from pseudoris.files.hub_storage import HubStorage

        return HubStorage.at(uri)
    from pseudoris.files.fsspec_storage import FsspecStorage

    return FsspecStorage.at(uri, limits or StorageConfig())


def local_path(uri: str) -> Path | None:
    """Return the absolute path of a local `uri` (`primitives.uris.named_path`); None if it names another store.

    ConfigError if it is empty, or relative to the working directory that Ray made for a job, and deletes.
    """
    if not uri:
        raise ConfigError("a path is empty, perhaps a variable of the shell that is not set. Give `.` for this folder")
    protocol, separator, rest = uri.partition("://")
    if separator and protocol not in LOCAL_PROTOCOLS:
        return None
    named = rest or uri
    path = named_path(named)
    if not named.startswith(("/", "~")) and _RAY_FOLDER in f"{os.path.realpath(path)}/":
        raise ConfigError(
            f"{named} is a relative path: in this Ray job it would be {path}, in a folder that Ray deletes. Give an "
            "absolute path that all nodes share, or a url (s3://bucket/prefix)"
        )
    return path


def _told(
    action: str, operation: Callable[Concatenate[Any, _Given], _Answer]
) -> Callable[Concatenate[RunLocation, _Given], _Answer]:
    """Return an operation of `Storage` as a method of `RunLocation`, whose errors `storage_errors` converts."""

    @functools.wraps(operation)
    def method(location: RunLocation, /, *given: _Given.args, **options: _Given.kwargs) -> _Answer:
        # What is done to no single path is done to the whole folder.
        uri = location.uri(given[0]) if given and isinstance(given[0], str) else location.root
        with storage_errors(action, uri):
            found: _Answer = getattr(location._storage, operation.__name__)(*given, **options)
        if isgenerator(found):
            # The errors of a listing come while it is read.
            found = each_of(found, uri)
        return found

    def each_of(found: Iterator[Any], uri: str) -> Any:
        with storage_errors(action, uri):
            yield from found

    return method


@dataclass(frozen=True, slots=True)
class RunLocation:
    """The folder `root` of a run, for the operations of `Storage`; paths are relative to it, with `/`. Can be pickled.

    Others may have written the folder: on a disk, links below it are refused, for reading and for writing. Each
    operation raises `ConfigError` if the user must correct something (disk full, read-only, no rights), and
    `TransientError` if another try may help; both name the full path.
    """

    root: str
    _storage: Storage

    @classmethod
    def open(cls, out: str, endpoint_url: str | None = None, limits: StorageConfig | None = None) -> Self:
        """Return the location `out`, as `storage_at`; ConfigError also if the uri is incomplete or holds a secret."""
        refuse_secrets(out)
        folder = local_path(out)
        if folder is None and not out.partition("://")[2].strip("/"):
            raise ConfigError(f"{out!r} is not a complete location: give a bucket and a prefix, s3://bucket/prefix")
        return cls(
            out.rstrip("/") if folder is None else str(folder),
            storage_at(out, endpoint_url, limits, follows_links=False),
        )

    @classmethod
    def open_to_read(cls, out: str) -> Self:
        """Return the location `out` for a command that only reads: a store that is down is reported within ten seconds.

        Raises as `open`, ConfigError if access is denied, and TransientError if the store does not answer.
        """
        cls.open(out, limits=StorageConfig().hasty()).exists(HEADER_NAME)
        return cls.open(out)

    def holds(self, other: RunLocation, folder: str = "") -> bool:
        """Return whether `other` is this location, or its `folder`, or below that; links and `..` are resolved."""
        outer = f"{resolved(self.root)}/{folder}".rstrip("/")
        return f"{resolved(other.root)}/".startswith(f"{outer}/")

    def uri(self, path: str) -> str:
        """Return the full address of `path`, as pyarrow, DuckDB and the like accept it."""
        return self._storage.uri(path)

    # Operations of the storage, by what their errors call them.
    size = _told("look at", Storage.size)
    obstacle = _told("look at", Storage.obstacle)
    read_bytes = _told("read", Storage.read)
    open_input = _told("open", Storage.open_input)
    list = _told("list", Storage.list)
    list_obstacles = _told("list", Storage.list_obstacles)
    list_temporary = _told("list", Storage.list_temporary)
    list_uploads = _told("list uploads of", Storage.list_uploads)
    abort_upload = _told("abort", Storage.abort_upload)
    create_once = _told("create", Storage.create_once)
    replace = _told("write", Storage.put)
    replace_by = _told("write", Storage.put_file)
    temporary_path = _told("write", Storage.temporary_path)
    delete = _told("delete", Storage.delete)
    delete_empty = _told("delete", Storage.delete_empty)

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path`; a folder does not count."""
        return self.size(path) is not None

    def read_if_there(self, path: str) -> bytes | None:
        """Return the whole file; None if there is none."""
        with suppress(FileNotFoundError):
            return self.read_bytes(path)
        return None

    def put_part(self, path: str, data: bytes) -> None:
        """Write a file whose name contains the hash of its content, or nothing at all; one of equal size is kept."""
        if self.size(path) != len(data):
            self.replace(path, data)

    def delete_temporary(self, *folders: str) -> None:
        """Delete what killed writers left in `folders`, where `gc` does not go; a living one writes its file again."""
        for folder in folders:
            for name, _ in [*self.list_temporary(folder)]:
                self.delete(f"{folder}/{name}" if folder else name)

    def refuse_others(self, own: Callable[[str], object], remedy: str, folder: str = "") -> None:
        """Raise ConfigError if a folder holds what is not `own`, by its name: it would be mixed with other files.

        Hidden entries, `lost+found`, logs and YAML files are let be. `remedy` ends the message.
        """
        names = chain((file.name for file in self.list(folder)), (name for name, _ in self.list_obstacles(folder)))
        others = (name for name in names if not own(name) and _BESIDE.fullmatch(name) is None)
        if found := list(islice(others, _NUM_SHOWN + 1)):
            more = " and more" if len(found) > _NUM_SHOWN else ""
            shown = ", ".join(map(printable, found[:_NUM_SHOWN]))
            place = shown_uri(self.uri(folder) if folder else self.root)
            raise ConfigError(f"{place} holds other files: {shown}{more}. {remedy}")

    def probe(self) -> None:
        """Prove that the location can be written and that a second creation is refused, else raise ConfigError."""
        path = _probe_name()
        try:
            is_first = self.create_once(path, b"first")
        except NotImplementedByStoreError as error:
            # If a plain write works, the store lacks conditional writes. Otherwise the write raises its own error.
            self.replace(path, b"plain")
            self.delete(path)
            raise ConfigError(f"{self.root} does not support conditional writes (HTTP 501): {_NEEDED}") from error
        try:
            is_second = self.create_once(path, b"second")
            content = self.read_bytes(path)
        finally:
            self.delete(path)
        if content not in (b"first", b"second"):
            how = "packs them with gzip" if content.startswith(b"\x1f\x8b") else "changes them"
            raise ConfigError(
                f"{self.root} gives back other bytes than were written: a proxy between here and the store {how}. "
                "Name the store itself, or let the proxy pass bodies as they are"
            )
        if not is_first or is_second or content != b"first":
            raise ConfigError(
                f"{self.root} allowed a file to be created twice: it ignores `If-None-Match: *` (or exclusive links on "
                f"a disk): {_NEEDED}"
            )

    def clock_s(self) -> float:
        """Return the time of a file written for this, in seconds since the epoch: the storage's clock.

        0 if a listing does not show the file, so that nothing looks old.
        """
        path = _probe_name()
        try:
            self.create_once(path, b"clock")
            return next((file.modified_s for file in self.list("") if file.name == path), 0.0)
        finally:
            self.delete(path)


def _probe_name() -> str:
    return f"_probe-{secrets.token_hex(8)}"


def resolved(root: str) -> str:
    """Return what is equal for two names of one place: links and `..` of a path are followed."""
    protocol, separator, rest = root.partition("://")
    if separator:
        return f"{'s3' if protocol in S3_PROTOCOLS else protocol}://{rest.rstrip('/')}"
    return str(Path(root).resolve()).rstrip("/")
