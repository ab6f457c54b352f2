"""The three things that can go wrong, as three exception types: the user's, the image's, and the world's."""

from __future__ import annotations


class PseudorisError(Exception):
    """The base of every error that the project raises on purpose; its text is written for the user."""


class ConfigError(PseudorisError):
    """A mistake that the user can mend: a setting, a path, a weight, a run that has another identity.

    Raised before any accelerator is taken. The command line prints the message without a traceback.
    """


class ImageError(PseudorisError):
    """One image cannot be annotated; the rest of its shard goes on.

    The message goes into the failures table, so it holds nothing that differs between two runs of the
    same image: no memory address, no count of attempts, no time.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep `reason`, a code of `schemas.tables.FAILURE_REASONS`, beside the message."""
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Return what pickle needs: the default rebuilds an exception from its message alone."""
        return type(self), (self.reason, self.message)


def too_many_bytes(size_bytes: int, allowed_bytes: int) -> ImageError:
    """Return the error of an encoded image that is larger than `images.max_bytes`."""
    message = f"{size_bytes:,} bytes; images.max_bytes allows {allowed_bytes:,}: raise it or make the image smaller"
    return ImageError("too_many_bytes", message)


class TransientError(PseudorisError):
    """Storage or a process failed in a way that another try may cure; never an image's fault."""


class BrokenDeviceError(TransientError):
    """The accelerator failed in a way that its process does not recover from; another process may go on."""
