"""The protocol of a disk or object store, its records and errors. For this room, `store`, `pipeline`, `interchange`.

`RunLocation` reads and writes runs through it, `SourceRoot` reads SOURCE. Implementations raise the errors of the disk
or the client. Those two classes convert them by one of three rules: `storage_errors` for a run's own files,
`listing_errors` for input before a run starts, `transient_faults` for input during a run, where a fault of one image
must cost that image alone. `walk` converts its errors itself, because it knows which folder failed. The docstrings here
hold for the methods of `RunLocation` too.
"""

from __future__ import annotations

import errno
import io
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, Literal, Protocol

from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, RefusedError, TransientError
from pseudoris.primitives.machine_limits import told_by_limit
from pseudoris.primitives.untrusted import told, without_secrets

OTHER_ETAG: Final = "the etag differs from the plan"
ANY_PATH: Final = re.compile(r"(?s:.*)")
# A request of `open_input` fetches at least this many bytes: about a row group of a plan part, or a whole manifest.
_WINDOW_BYTES: Final = 2**20

Kind = Literal["file", "folder"] | None
# The function gets the names in a folder's path below the root, and returns whether the folder may hold wanted files.
MayDescend = Callable[[tuple[str, ...]], bool]


@dataclass(frozen=True, slots=True)
class Mark:
    """Files `names` that may close the folder that holds one: a listing then leaves out the folder with all below it.

    `closes` takes the path of a folder below the root. It returns whether the folder holds such a file, and is closed
    by it.
    """

    names: tuple[str, ...]
    closes: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or object below a root, with the values that identify its version.

    Attributes:
        path: Relative to the root, with `/`. On disk a name that is not UTF-8 has surrogate escapes.
        size_bytes: None for a broken link.
        etag: None on disk. In a store without etags it is made of the modification time.
        mtime_ns: None on object stores.
        is_archived: Whether a listing shows an archive class; the object may have been restored all the same.
    """

    path: str
    size_bytes: int | None
    etag: str | None = None
    mtime_ns: int | None = None
    is_archived: bool = False

    def __post_init__(self) -> None:
        """Refuse a size that is none, which a faulty store may list; a ConfigError."""
        if self.size_bytes is not None and not 0 <= self.size_bytes < 2**63:
            raise ConfigError(
                f"{shown_uri(self.path)} has {self.size_bytes:.9g} bytes by its store, which is no size: repair the "
                "store, or remove the file"
            )


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of one folder; `modified_s` is in seconds since the epoch, by the storage's clock."""

    name: str
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """An incomplete multipart upload of the object `key`; `started_s` is in seconds since the epoch."""

    key: str
    upload_id: str
    started_s: float


class ChangedError(TransientError):
    """The file exists, but is not the requested version."""


class NoBucketError(ConfigError):
    """There is no bucket of this name, in this region, at this endpoint."""


class NotImplementedByStoreError(ConfigError):
    """The store answers 501: it does not implement what a request asks for."""


class ArchivedError(OSError):
    """The object is in an archive class, such as GLACIER, and was not restored: it cannot be read now."""


class UnansweredError(PermissionError):
    """A web server that gives no answer; its image counts as refused (docs/records/reliability.md)."""


class InsecureError(UnansweredError):
    """A web server whose name, certificate or protocol is not that of the url: waiting does not help."""


class LackingError(OSError):
    """What a safe commit needs does not work on the file system; `strerror` says what, where, and the ways out."""


def is_unknown_host(error: object) -> bool:
    """Return whether a client's error says that a host's name is none; a resolver that is down says something else."""
    return getattr(getattr(error, "os_error", None), "errno", None) == socket.EAI_NONAME


class Storage(Protocol):
    """Files below a root. Every path is relative to the root, with `/`. Can be pickled.

    A write is durable and atomic: a reader sees the old file or the new one, even if the writer is killed. A method
    with a body here does what suits an object store that holds only objects, and no unfinished ones.

    Attributes:
        faults: Exceptions that it may raise if the storage fails. All by default: the clients of object stores have no
            common base class for lost connections.
        max_readers: Number of files that are worth reading in parallel.
    """

    faults: ClassVar[tuple[type[Exception], ...]] = (Exception,)
    max_readers: ClassVar[int] = 8

    def uri(self, path: str = "") -> str:
        """Return the full path or uri, as pyarrow, DuckDB and the like accept it."""

    def pinned(self) -> str:
        """Return `uri()`; of a dataset on the Hub with the commit that its branch or tag names now."""
        return self.uri()

    def kind(self, path: str) -> Kind:
        """Return what exists at `path`."""

    def stat(self, path: str) -> StoredFile:
        """Return the file's current version. Raises: FileNotFoundError: There is no file, or a folder."""

    def size(self, path: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        try:
            return self.stat(path).size_bytes
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> bytes:
        """Return the whole file. Raises: FileNotFoundError: There is no file."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for reading, seekable; at least `window_bytes` are fetched at once.

        FileNotFoundError if there is none; in a bucket perhaps only at the first read or seek.
        """

    def open_input(self, path: str) -> BinaryIO:
        """Return the file opened for reading, seekable; FileNotFoundError if there is none."""
        file = self.open(path, window_bytes=_WINDOW_BYTES)
        # In a bucket, `open` makes no request. The seek makes one, so that a missing file raises its error here.
        file.seek(0, io.SEEK_END)
        file.seek(0)
        return file

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open a file for a block, with the etag, time and size of `expected`; None is not checked.

        ImageError (`changed`) when the block ends or earlier: do not use what was read. FileNotFoundError if there is
        none.
        """
        # The version is checked before and after the read, because this storage has no conditional reads.
        refuse_change(self.stat(path), expected)
        with self.open(path) as stream:
            yield stream
        refuse_change(self.stat(path), expected)

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the finished files of a folder, if there is one, whose names begin with `name_prefix`, in any order."""

    def obstacle(self, path: str) -> str | None:
        """Return what is at `path` if it is not a file, such as `a folder`; None for a file, or for nothing."""
        return None

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and kind (`a folder`) of what is directly in `folder` and not a file."""

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the files in the order of their keys, without `exclude` and the folders that `mark` closes.

        ConfigError, which names the folder, if it may not be listed; TransientError if the storage failed.
        """

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of files that killed writers left in `folder` on a disk."""
        yield from ()

    def list_uploads(self, paths: re.Pattern[str] = ANY_PATH) -> Iterator[Upload]:
        """Yield the incomplete multipart uploads of files whose whole path matches `paths`; none on a disk."""
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        """Abort the upload and free its storage. If it is gone, do nothing."""
        return

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`, durably, completely or not at all. Of several callers, one gets True.

        False means that the file exists. On object stores other than S3 it may be the caller's own, if a request was
        repeated: a caller whose content names its author reads the file back.
        """

    def put(self, path: str, data: bytes) -> None:
        """Write `data` to the file, and replace any existing file."""

    def put_file(self, path: str, local: Path) -> None:
        """Write the file from a local file in bounded memory, and replace any existing file.

        A disk moves the local file, which must be on the same disk. A bucket gets a copy, in parts.
        """

    def temporary_path(self, path: str) -> Path | None:
        """Return a new local path from which `put_file` moves a file to `path`; None if `put_file` copies."""
        return None

    def delete(self, path: str) -> None:
        """Delete the file if it exists."""

    def delete_empty(self, folder: str) -> None:
        """Delete a folder that is empty; a bucket has no folders."""


def refuse_change(found: StoredFile, expected: StoredFile) -> None:
    """Raise `ImageError` (`changed`) for another version than the expected one; None in `expected` is not checked."""
    if expected.etag is not None and found.etag != expected.etag:
        raise ImageError("changed", OTHER_ETAG)
    if expected.mtime_ns is not None and found.mtime_ns != expected.mtime_ns:
        raise ImageError("changed", "the modification time differs from the plan")
    if expected.size_bytes is not None and found.size_bytes != expected.size_bytes:
        raise ImageError("changed", "the size differs from the plan")


# What an error says about an input image. `missing` quarantines it after a second look, `denied` if the store gives
# another image at the same time, `unreadable` at once. `store` blames the storage, and quarantines none.
Verdict = Literal["missing", "unreadable", "denied", "store"]

# docs/records/reliability.md has the same table. An error number that is not in it counts as `store`.
VERDICTS: Final[dict[int, Verdict]] = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "missing"),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ, errno.EOVERFLOW), "unreadable"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.ENOKEY), "denied"),
    **dict.fromkeys((errno.EKEYREJECTED, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EINVAL), "store"),
    **dict.fromkeys((errno.EIO, errno.EREMOTEIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS), "store"),
    **dict.fromkeys((errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EUCLEAN), "store"),
    **dict.fromkeys((errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN), "store"),
    **dict.fromkeys((errno.EHOSTUNREACH, errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET), "store"),
    **dict.fromkeys((errno.ENOMEM, errno.EMFILE, errno.ENFILE), "store"),
}
# The texts are fixed: the failures table stores them, but `os.strerror` depends on the machine's language.
_UNREADABLE: Final[dict[int, str]] = {
    errno.ELOOP: "its link leads to itself, or too many links follow one another",
    errno.ENAMETOOLONG: "its path, or the target of its link, is too long",
    errno.EILSEQ: "its file system cannot hold this name",
    errno.EOVERFLOW: "it is larger than this system can read",
}
_ARCHIVED: Final = "the object is archived: restore it (`aws s3api restore-object`), then try again"

_NUMBERS: Final[dict[type[Exception], int]] = {
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
}

# A retry does not help against these errors, so each message names what the user can do.
_REMEDIES: Final[dict[int, str]] = {
    errno.ENOSPC: "the disk is full: free space or name another output, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space or name another output, then run the same command again",
    errno.EFBIG: "the file system does not allow files this large: lower shards.max_bytes or name another output",
    errno.EROFS: "it is mounted read-only: mount it writable or name another output",
    errno.EACCES: "access is denied: grant this user (or these credentials) read and write, or name another location; "
    "renew credentials that expired",
    errno.ENOKEY: "the Hub does not show it to you: check the name, and run `hf auth login` or set HF_TOKEN",
    errno.EPERM: "the operation is not permitted there: grant the right, or name another location",
    errno.EKEYREJECTED: "the store does not accept these credentials: renew or correct them",
    errno.ELOOP: "a link in the path leads to itself: correct it, or name another location",
    errno.ENOTDIR: "a part of the path is a file, not a folder: name another location",
    errno.EISDIR: "it is a folder, but must be a file. Move it out, or name another location",
    errno.ENAMETOOLONG: "the path is too long for the file system: name a shorter one",
    errno.ENOTSUP: "the file system does not support hard links, which a safe commit needs: name another location",
}


@contextmanager
def storage_errors(action: str, uri: str) -> Iterator[None]:
    """Convert an OSError of the block to one of the project's errors, with `action` and `uri` in its text.

    `FileNotFoundError` and `FileExistsError` pass: they are answers that callers handle.

    Raises:
        ConfigError: Waiting does not help (disk full, read-only, no rights, wrong kind of path).
        TransientError: Any other OSError (input/output, connection, timeout).
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise _explained(error, action, uri) from told(error)


@contextmanager
def transient_faults(action: str, uri: str, *, faults: tuple[type[Exception], ...]) -> Iterator[None]:
    """Convert the `faults` of a storage in the block by `VERDICTS`: a few are an image's fault, all others never.

    Denied access may be either: during a run, credentials may expire. The caller decides.

    Raises:
        FileNotFoundError: There is no such file; also if a part of its path is not a folder, or it is a folder itself.
        ChangedError: It is not the requested version.
        ImageError: `unreadable` or `archived`.
        RefusedError: Access is denied.
        TransientError: Any other exception in `faults`.
    """
    try:
        yield
    except (FileNotFoundError, PseudorisError, MemoryError):
        raise
    except ArchivedError as error:
        raise ImageError("archived", _ARCHIVED) from error
    except faults as error:
        verdict = verdict_of(error)
        if verdict == "missing":
            raise FileNotFoundError(without_secrets(str(error))) from told(error)
        if verdict == "unreadable":
            raise ImageError(verdict, _UNREADABLE[_number_of(error)]) from error
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        kind = RefusedError if verdict == "denied" else TransientError
        raise kind(f"cannot {action} {uri}: {reason}; fix this if needed, then run the same command again") from told(
            error
        )


def verdict_of(error: Exception) -> Verdict:
    """Return what an error says about the image that was read."""
    return VERDICTS.get(_number_of(error), "store")


@contextmanager
def listing_errors(action: str, uri: str, *, faults: tuple[type[Exception], ...]) -> Iterator[None]:
    """Convert the storage's errors before a run starts, while SOURCE is listed, to the project's errors.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: Access is denied, or waiting does not help for another reason.
        TransientError: Any other exception in `faults`.
    """
    with transient_faults(action, uri, faults=faults), storage_errors(action, uri):
        try:
            yield
        except PermissionError as error:
            if isinstance(error, UnansweredError):
                raise _explained(error, action, uri) from told(error)
            raise ConfigError(
                f"access to {uri} is denied: grant these credentials, or this user, the rights to list and read"
                + (", or set source.requester_pays=true if its readers pay" if uri.startswith(("s3:", "s3a:")) else "")
            ) from told(error)


def shown_uri(uri: str) -> str:
    """Return a path or uri for messages; bytes that are not UTF-8 are written as escapes."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _number_of(error: Exception) -> int:
    """Return the errno; 0 if there is none. Clients of object stores raise subclasses of OSError without a number."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return next((number for kind, number in _NUMBERS.items() if isinstance(error, kind)), 0)


def _explained(error: OSError, action: str, uri: str) -> ConfigError | TransientError:
    if isinstance(error, ArchivedError):
        return ConfigError(f"cannot {action} {uri}: {_ARCHIVED}")
    if isinstance(error, (InsecureError, LackingError)):
        return ConfigError(f"cannot {action} {uri}: {error.strerror}")
    number = _number_of(error)
    if number in (errno.ENOSPC, errno.EDQUOT) and "://" in uri:
        full = f"the store is full ({error.strerror}): free space or raise its quota, or name another output"
        return ConfigError(f"cannot {action} {uri}: {full}, then run the same command again")
    if number in _REMEDIES and not isinstance(error, UnansweredError):
        return ConfigError(f"cannot {action} {uri}: {_REMEDIES[number]}")
    if number in (errno.EMFILE, errno.ENFILE) and (told := told_by_limit(error)):
        return ConfigError(f"cannot {action} {uri}: {told}")
    reason = error.strerror or type(error).__name__
    return TransientError(f"cannot {action} {uri}: {reason}; run the same command again to continue")
