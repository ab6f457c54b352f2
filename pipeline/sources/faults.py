"""What a storage raises in the midst of a run: an answer (there is no such file), or a fault that may pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import PseudorisError, TransientError


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
        TransientError: Anything else of `faults`.
    """
    try:
        yield
    except (FileNotFoundError, PseudorisError, MemoryError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(str(error)) from error
    except faults as error:
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise TransientError(
            f"cannot {action} {uri}: {reason}; mend it if need be, then run the same command again"
        ) from error
