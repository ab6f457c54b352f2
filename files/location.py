"""Opens a folder with its storage, by path or uri: a run, an export, a gallery. Called by every room that has files.

All reads and writes of a run go through `RunLocation`, whose errors name the full path. A store without conditional
writes is refused before a run (`probe`), because commits would not be safe there.
"""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from pseudoris.files.local_storage import LocalStorage
from pseudoris.files.storage import ListedFile, NotImplementedByStoreError, Storage, Upload, storage_errors
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.uris import named_path, refuse_secrets
from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.run_records import HEADER_NAME

__all__ = ["ListedFile", "RunLocation", "Upload"]

LOCAL_PROTOCOLS: Final = ("file", "local")
S3_PROTOCOLS: Final = ("s3", "s3a")
# Ray unpacks a job's working directory below this folder and deletes it later, so a relative path there is refused.
_RAY_FOLDER: Final = "/runtime_resources/working_dir_files/"
_ANY_PATH: Final = re.compile(r"(?s:.*)")
# One request fetches at least this many bytes: about a row group of a plan part, or a whole manifest.
_WINDOW_BYTES: Final = 2**20
# Probe files have such names. A probe deletes its file at once, so one is left only if its process is killed.
PROBE_NAME: Final = re.compile(r"_probe-[0-9a-f]{16}")
_NEEDED: Final = "commits would not be safe. Use a store with conditional writes: AWS S3, MinIO, Ceph, or a local disk"


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

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path`; a folder does not count."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        with storage_errors("look at", self.uri(path)):
            try:
                return self._storage.stat(path).size_bytes
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_bytes(self, path: str) -> bytes:
        """Return the whole file; FileNotFoundError if there is none."""
        with storage_errors("read", self.uri(path)):
            return self._storage.read(path)

    def read_if_there(self, path: str) -> bytes | None:
        """Return the whole file; None if there is none."""
        with suppress(FileNotFoundError):
            return self.read_bytes(path)
        return None

    def open_input(self, path: str) -> BinaryIO:
        """Return the file opened for reading, seekable; FileNotFoundError if there is none."""
        with storage_errors("open", self.uri(path)):
            file = self._storage.open(path, window_bytes=_WINDOW_BYTES)
            # In a bucket, `open` makes no request. The seek makes one, so that a missing file raises its error here.
            file.seek(0, io.SEEK_END)
            file.seek(0)
            return file

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the files directly in `folder`, in no order; nothing if the folder does not exist."""
        with storage_errors("list", self.uri(folder)):
            yield from self._storage.list(folder, name_prefix=name_prefix)

    def obstacle(self, path: str) -> str | None:
        """Return what is at `path` if it is not a file, such as `a folder` or `a pipe`; None for a file, or nothing."""
        return self._storage.obstacle(path)

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and kind of what is directly in `folder` and not a file."""
        with storage_errors("list", self.uri(folder)):
            yield from self._storage.list_obstacles(folder)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of unfinished files in `folder`; none in a bucket."""
        with storage_errors("list", self.uri(folder)):
            yield from self._storage.list_temporary(folder)

    def delete_temporary(self, *folders: str) -> None:
        """Delete what killed writers left in `folders`, where `gc` does not go; a living one writes its file again."""
        for folder in folders:
            for name, _ in list(self.list_temporary(folder)):
                self.delete(f"{folder}/{name}" if folder else name)

    def list_uploads(self, paths: re.Pattern[str] = _ANY_PATH) -> Iterator[Upload]:
        """Yield the unfinished multipart uploads of files whose whole paths match; none on a disk."""
        with storage_errors("list uploads of", self.root):
            yield from self._storage.list_uploads(paths)

    def abort_upload(self, upload: Upload) -> None:
        """Abort an upload and free its parts; do nothing if it is gone."""
        with storage_errors("abort", self.root):
            self._storage.abort_upload(upload)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create `path` with `data`, durably, completely or not at all; of several callers, one gets True.

        False means that the file exists. On object stores other than S3 it may be the caller's own, if a request was
        repeated: a caller whose content names its author reads the file back.
        """
        with storage_errors("create", self.uri(path)):
            return self._storage.create_once(path, data)

    def put_part(self, path: str, data: bytes) -> None:
        """Write a file whose name contains the hash of its content, or nothing at all; one of equal size is kept."""
        with storage_errors("write", self.uri(path)):
            if self.size(path) != len(data):
                self._storage.put(path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Write `path`, replacing an existing file; a reader sees the complete old file or the complete new one."""
        with storage_errors("write", self.uri(path)):
            self._storage.put(path, data)

    def temporary_path(self, path: str) -> Path | None:
        """Return a new path on this disk, from which `replace_by` moves a file to `path`; None for a bucket."""
        return self._storage.temporary_path(path)

    def replace_by(self, path: str, local: Path) -> None:
        """Write `path` from a file on this disk, replacing an existing file; bounded memory.

        A disk moves the file, so it must be on the same disk. A bucket gets a copy, in parts.
        """
        with storage_errors("write", self.uri(path)):
            self._storage.put_file(path, local)

    def delete(self, path: str) -> None:
        """Delete the file; do nothing if there is none."""
        with storage_errors("delete", self.uri(path)):
            self._storage.delete(path)

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
