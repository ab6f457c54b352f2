"""Errors of all rooms, by who must act. `PseudorisError`, `ConfigError` and `TransientError` are public, for users."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")


class PseudorisError(Exception):
    """Base of all errors that the project raises on purpose. The message is written for the user."""


class ConfigError(PseudorisError):
    """A mistake that the user can fix: a setting, a path, a weights file, a run with another identity.

    Raised before any accelerator is taken. The command line prints the message without a traceback. Whatever reads what
    a user gave may raise it: docstrings name it only where a caller tells it from another error.
    """


def check_number(
    name: str, value: Any, low: float, high: float = 2**63 - 1, *, is_whole: bool = True, is_needed: bool = False
) -> None:
    """Accept what an option or argument was given: a number from `low` to `high`, or None unless it is needed.

    Raises:
        ConfigError: It is anything else.
    """
    is_number = isinstance(value, Integral if is_whole else Real) and not isinstance(value, bool)
    if (value is not None or is_needed) and not (is_number and low <= value <= high):
        is_long = isinstance(value, int) and value.bit_length() > 64
        shown = "of more than 64 bits" if is_long else f"{value!r:.40}"
        kind = "whole number" if is_whole else "finite number"
        raise ConfigError(f"{name} {shown} is not possible: give a {kind} from {low} to {high}")


def refuse_other_version(name: str, found: object, known: int, *, again: str = "annotate again") -> None:
    """Raise a `ConfigError` if `name` is of a version `found` that is not `known`; `again` says how to make it anew."""
    if found == known:
        return
    anew = f"{again}, or " if isinstance(found, int) and found < known else ""
    raise ConfigError(
        f"{name} is of version {found!r}, and this pseudoris reads version {known} alone: {anew}use the pseudoris that "
        "wrote it"
    )


class MissingPartsError(ConfigError):
    """Several parts that a run needs are missing or damaged; its arguments name each, with what provides it."""

    def __str__(self) -> str:
        lines = "\n".join(f"  {number}. {part}" for number, part in enumerate(self.args, start=1))
        return f"{len(self.args)} parts that this run needs are not ready:\n{lines}"


def gather(*reads: Callable[[], T]) -> list[T]:
    """Return what each of `reads` returns.

    Raises:
        ConfigError: Of the one that raised it, if it is the only one, or if all lack the same.
        MissingPartsError: Several raised a `ConfigError`: what any of them lacks.
    """
    found: list[T] = []
    errors: list[ConfigError] = []
    for read in reads:
        try:
            found.append(read())
        except ConfigError as error:
            errors.append(error)
    parts = (each.args if isinstance(each, MissingPartsError) else (str(each),) for each in errors)
    distinct = dict.fromkeys(chain.from_iterable(parts))
    if len(errors) == 1 or len(distinct) == 1:
        raise errors[0]
    if errors:
        raise MissingPartsError(*distinct)
    return found


class ImageError(PseudorisError):
    """One image cannot be annotated. The rest of its shard continues.

    The message is written to the failures table. So it contains nothing that differs between two runs on the same
    image: no memory address, no count of attempts, no time.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep `reason`, a code from `pseudoris.schemas.tables.FAILURE_REASONS`, beside the message."""
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Return what pickle needs. By default pickle rebuilds an exception from its message alone."""
        return type(self), (self.reason, self.message)


def too_many_bytes(size_bytes: int, allowed_bytes: int) -> ImageError:
    """Return the error for an encoded image that is larger than `images.max_bytes`."""
    message = f"{size_bytes:,} bytes; images.max_bytes allows {allowed_bytes:,}: raise it or make the image smaller"
    return ImageError("too_many_bytes", message)


class TransientError(PseudorisError):
    """Storage or a process failed, and another try may succeed. Never an image's fault."""


class RefusedError(TransientError):
    """A store refused one object: the fault of the store, unless it gives another object at the same time.

    Attributes:
        failure: The image's error in that case.
        any_store: Whether an object of any other store shows it as well.
    """

    def __init__(self, message: str, failure: ImageError | None = None, *, any_store: bool = False) -> None:
        """Keep what follows if the image is to blame; by default `denied`."""
        super().__init__(message)
        self.failure = failure or ImageError("denied", "access was refused twice, while another image could be read")
        self.any_store = any_store


class BrokenDeviceError(TransientError):
    """The accelerator failed, and its process cannot recover. Another process may continue."""


class NoSubprocessError(TransientError):
    """A subprocess to test an image cannot be started, or has no memory. Another process takes the shard."""
