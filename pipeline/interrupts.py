"""Ctrl-C and SIGTERM as one exception in the main thread, never in the midst of what an exception would break."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S: Final = 0.05

_Handler = Callable[[int, FrameType | None], Any]


class Interrupts:
    """Whether the user, or the cluster, has asked this process to stop."""

    def __init__(self) -> None:
        self._is_requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where a stop was asked for, also where a library has swallowed the exception."""
        if self._is_requested:
            raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the signal: raise KeyboardInterrupt, at once or as soon as it does no harm."""
        self._is_requested = True
        if _holds_logging_lock():
            # Between taking that lock and the `try` that gives it back an exception would leave it taken: the next
            # thread to log anything waits for ever (seen: Ray Data's executor, and with it the run).
            again = threading.Timer(_PATIENCE_S, _signal_main_thread, (number,))
            again.daemon = True
            again.start()
            return
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt inside the block, where that is safe.

    Outside of the main thread signals stay whose they are.
    """
    interrupts = Interrupts()
    with _handled(interrupts.handle):
        yield interrupts


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Keep SIGINT and SIGTERM for the end of the block, where the handlers of before get them.

    For steps that leave processes behind when they are broken off halfway; and whatever handlers the block
    itself installs (Ray's ends the process) are gone after it.
    """
    kept: list[int] = []
    with _handled(lambda number, _frame: kept.append(number)):
        yield
    for number in dict.fromkeys(kept):
        signal.raise_signal(number)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Let signals act at once inside the block; whatever handlers it installs are gone after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread alone, and only it may ask for them.
        yield
        return
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _signal_main_thread(number: int) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _holds_logging_lock() -> bool:
    lock: Any = logging._lock  # type: ignore[attr-defined]  # there is no public name
    return bool(lock._is_owned())
