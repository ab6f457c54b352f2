"""What a storage raises in the midst of a run: an answer (there is no such file), or a fault that may pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import ConfigError, PseudorisError, TransientError
from store.s3_errors import ChangedError


@contextmanager
def transient_faults(action: str, uri: str, *, faults: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what the storage raises inside the block into `TransientError`: never the fault of an image.

    Denied access too: in the midst of a run credentials may be being renewed.

    Args:
        action: Such as `read`.
        uri: Full path or uri.
        faults: What the storage may raise (`Storage.faults`).

    Raises:
        FileNotFoundError: There is no such file; also where a part of its path is no folder.
        ChangedError: It is not the version that was asked for.
        TransientError: Anything else of `faults`.
    """
    try:
        yield
    except (FileNotFoundError, PseudorisError, MemoryError, ChangedError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(str(error)) from error
    except faults as error:
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise TransientError(
            f"cannot {action} {uri}: {reason}; mend it if need be, then run the same command again"
        ) from error


@contextmanager
def denial_is_final(uri: str) -> Iterator[None]:
    """Before a run starts, denied access is the user's to mend; in its midst, credentials may be being renewed."""
    try:
        yield
    except PermissionError as error:
        raise ConfigError(f"access to {uri} is denied: grant these credentials the rights to list and read") from error
