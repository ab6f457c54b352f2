"""What an error of storage means: a mistake to mend, or something that another try may cure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from schemas.errors import ConfigError, TransientError

# Waiting cures none of these: the user frees space, mends rights, or names another place.
_REMEDIES: Final[dict[int, str]] = {
    errno.ENOSPC: "the disk is full: free space or name another output, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space or name another output, then run the same command again",
    errno.EFBIG: "the file system does not hold files this large: lower shards.max_bytes or name another output",
    errno.EROFS: "it is mounted read-only: mount it writable or name another output",
    errno.EACCES: "access is denied: grant this user (or these credentials) read and write, or name another place",
    errno.EPERM: "the operation is not permitted there: grant the right, or name another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder: name another place",
    errno.EISDIR: "a folder stands where a file belongs: name another place",
    errno.ENAMETOOLONG: "the path is too long for the file system: name a shorter one",
    errno.ENOTSUP: "the file system knows no hard links, which a safe commit needs: name another one",
}


@contextmanager
def storage_errors(action: str, uri: str) -> Iterator[None]:
    """Turn an OSError of the block into one of the project's errors, with `action` and `uri` in its text.

    `FileNotFoundError` and `FileExistsError` pass: they are answers, and callers ask for them.

    Raises:
        ConfigError: Waiting cannot cure it (disk full, read-only, no rights, no such kind of path).
        TransientError: Any other OSError (input/output, connection, timeout).
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise _explained(error, action, uri) from error


def _explained(error: OSError, action: str, uri: str) -> ConfigError | TransientError:
    # s3fs raises PermissionError without a number for AccessDenied.
    number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else None)
    if number in _REMEDIES:
        return ConfigError(f"cannot {action} {uri}: {_REMEDIES[number]}")
    reason = error.strerror or type(error).__name__
    return TransientError(f"cannot {action} {uri}: {reason}; run the same command again to continue")
