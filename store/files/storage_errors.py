"""Classifies storage errors: a user error, or a fault that a retry may fix.

There are three rules: `storage_errors` for a run's own files, `listing_errors` for input before a run starts, and
`transient_faults` for input during a run.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pseudoris.schemas.errors import ConfigError, PseudorisError, TransientError
from pseudoris.store.files.storage import ChangedError

# Waiting does not help with these: the user must free space, grant rights, or name another location.
_REMEDIES: Final[dict[int, str]] = {
    errno.ENOSPC: "the disk is full: free space or name another output, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space or name another output, then run the same command again",
    errno.EFBIG: "the file system does not allow files this large: lower shards.max_bytes or name another output",
    errno.EROFS: "it is mounted read-only: mount it writable or name another output",
    errno.EACCES: "access is denied: grant this user (or these credentials) read and write, or name another location",
    errno.EPERM: "the operation is not permitted there: grant the right, or name another location",
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
    """Convert the storage's errors in the block to `TransientError`: they are never the fault of an image.

    Also denied access: during a run, credentials may just be renewed.

    Args:
        action: Such as `read`.
        uri: Full path or uri.
        faults: Exceptions of the storage (`Storage.faults`).

    Raises:
        FileNotFoundError: There is no such file; also if a part of its path is not a folder, or it is a folder itself.
        ChangedError: It is not the requested version.
        TransientError: Any other exception in `faults`.
    """
    try:
        yield
    except (FileNotFoundError, PseudorisError, MemoryError, ChangedError):
        raise
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(str(error)) from error
    except faults as error:
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise TransientError(
            f"cannot {action} {uri}: {reason}; fix this if needed, then run the same command again"
        ) from error


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
            raise ConfigError(
                f"access to {uri} is denied: grant these credentials, or this user, the rights to list and read"
            ) from error


def printable(uri: str) -> str:
    """Return a path or uri for messages; bytes that are not UTF-8 are written as escapes."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _explained(error: OSError, action: str, uri: str) -> ConfigError | TransientError:
    # s3fs raises PermissionError without a number for AccessDenied.
    number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else None)
    if number in _REMEDIES:
        return ConfigError(f"cannot {action} {uri}: {_REMEDIES[number]}")
    reason = error.strerror or type(error).__name__
    return TransientError(f"cannot {action} {uri}: {reason}; run the same command again to continue")
