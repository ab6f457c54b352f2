"""Classifies storage errors: a user error, or a fault that a retry may fix.

There are three rules: `storage_errors` for a run's own files, `listing_errors` for input before a run starts, and
`transient_faults` for input during a run, where a fault of one image must cost that image alone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError, RefusedError, TransientError
from pseudoris.store.files.storage import ArchivedError, ChangedError

# What an error says while an input image is read. A reason code quarantines that image: `missing` after a second look,
# `denied` if the store gives another image at the same time. `store` never does.
Verdict = Literal["missing", "unreadable", "denied", "store"]

# docs/reliability.md has the same table. Numbers that are not here are the store's.
VERDICTS: Final[dict[int, Verdict]] = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "missing",
    errno.ELOOP: "unreadable",
    errno.ENAMETOOLONG: "unreadable",
    errno.EILSEQ: "unreadable",
    errno.EOVERFLOW: "unreadable",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENOKEY: "denied",
    errno.EKEYREJECTED: "store",
    errno.EKEYEXPIRED: "store",
    errno.EKEYREVOKED: "store",
    errno.EIO: "store",
    errno.ENOSPC: "store",
    errno.EDQUOT: "store",
    errno.EROFS: "store",
    errno.ENXIO: "store",
    errno.ENODEV: "store",
    errno.ESTALE: "store",
    errno.EUCLEAN: "store",
    errno.ETIMEDOUT: "store",
    errno.ENETDOWN: "store",
    errno.ENETUNREACH: "store",
    errno.EHOSTDOWN: "store",
    errno.EHOSTUNREACH: "store",
    errno.ENOTCONN: "store",
    errno.ECONNREFUSED: "store",
    errno.ECONNRESET: "store",
    errno.EREMOTEIO: "store",
    errno.ENOMEM: "store",
    errno.EMFILE: "store",
    errno.ENFILE: "store",
    errno.EINVAL: "store",
}
# Written to the failures table, so not by `os.strerror`, which may speak another language on another machine.
_UNREADABLE: Final[dict[int, str]] = {
    errno.ELOOP: "its link leads to itself, or too many links follow one another",
    errno.ENAMETOOLONG: "its path, or the target of its link, is too long",
    errno.EILSEQ: "its file system cannot hold this name",
    errno.EOVERFLOW: "it is larger than this system can read",
}


class UnansweredError(PermissionError):
    """A web server that gives no answer; an image that it should give counts as refused (docs/reliability.md)."""


_ARCHIVED: Final = "the object is archived: restore it (`aws s3api restore-object`), then try again"

_NUMBERS: Final[dict[type[Exception], int]] = {
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
}

# Waiting does not help with these: the user must free space, grant rights, or name another location.
_REMEDIES: Final[dict[int, str]] = {
    errno.ENOSPC: "the disk is full: free space or name another output, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space or name another output, then run the same command again",
    errno.EFBIG: "the file system does not allow files this large: lower shards.max_bytes or name another output",
    errno.EROFS: "it is mounted read-only: mount it writable or name another output",
    errno.EACCES: "access is denied: grant this user (or these credentials) read and write, or name another location",
    errno.EPERM: "the operation is not permitted there: grant the right, or name another location",
    errno.EKEYREJECTED: "the store does not accept these credentials: renew or correct them",
    errno.ELOOP: "a link in the path leads to itself: correct it, or name another location",
    errno.ENOTDIR: "a part of the path is a file, not a folder: name another location",
    errno.EISDIR: "it is a folder, but must be a file: name another location",
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
        raise _explained(error, action, uri) from error


@contextmanager
def transient_faults(action: str, uri: str, *, faults: tuple[type[Exception], ...]) -> Iterator[None]:
    """Convert the storage's errors in the block by `VERDICTS`: a few are an image's fault, all others never.

    Denied access may be either: during a run, credentials may expire. The caller decides.

    Args:
        action: Such as `read`.
        uri: Full path or uri.
        faults: Exceptions of the storage (`Storage.faults`).

    Raises:
        FileNotFoundError: There is no such file; also if a part of its path is not a folder, or it is a folder itself.
        ChangedError: It is not the requested version.
        ImageError: `unreadable` or `archived`.
        RefusedError: Access is denied.
        TransientError: Any other exception in `faults`.
    """
    try:
        yield
    except (FileNotFoundError, PseudorisError, MemoryError, ChangedError):
        raise
    except ArchivedError as error:
        raise ImageError("archived", _ARCHIVED) from error
    except faults as error:
        verdict = verdict_of(error)
        if verdict == "missing":
            raise FileNotFoundError(str(error)) from error
        if verdict == "unreadable":
            raise ImageError(verdict, _UNREADABLE[_number_of(error)]) from error
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        kind = RefusedError if verdict == "denied" else TransientError
        raise kind(f"cannot {action} {uri}: {reason}; fix this if needed, then run the same command again") from error


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
                raise _explained(error, action, uri) from error
            raise ConfigError(
                f"access to {uri} is denied: grant these credentials, or this user, the rights to list and read"
                + (", or set source.requester_pays=true if its readers pay" if uri.startswith(("s3:", "s3a:")) else "")
            ) from error


def printable(uri: str) -> str:
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
    number = _number_of(error)
    if number in _REMEDIES and not isinstance(error, UnansweredError):
        return ConfigError(f"cannot {action} {uri}: {_REMEDIES[number]}")
    reason = error.strerror or type(error).__name__
    return TransientError(f"cannot {action} {uri}: {reason}; run the same command again to continue")
