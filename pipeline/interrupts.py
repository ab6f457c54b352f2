"""Turns Ctrl-C, SIGTERM and SIGHUP into KeyboardInterrupt, so that a run ends cleanly.

Called by `cli/main`, `annotation`, `cluster` and `executor`. The exception is raised only where it is safe: not in an
import, not while a thread holds the lock of `logging`, and not while Ray starts. Only the main thread gets signals.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

# SIGHUP comes when a terminal closes. If `nohup` made the process ignore it, it stays ignored.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S: Final = 0.05
# An import is interrupted only after this many seconds, because torch needs seconds and aborts if interrupted.
_IMPORT_PATIENCE_S: Final = 30.0

# While this is set, each child process leaves the process group, so that no signal to the group reaches it.
_is_apart: Final = threading.Event()
# Of each program that says so if it has not ended this many seconds after a stop was asked for: what writes the line.
_slow_stops: Final[list[threading.Timer]] = []
_SLOW_STOP_S: Final = 0.5


class Interrupts:
    """Whether the user or the cluster asked this process to stop."""

    def __init__(self) -> None:
        self._requested_s: float | None = None
        self._is_raised = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested, even if a library swallowed the exception."""
        if self._requested_s is not None:
            self._is_raised = True
            raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal: raise KeyboardInterrupt at once, or as soon as it is safe."""
        if number == signal.SIGHUP and self._is_raised:
            # A closing terminal sends SIGHUP twice. The second signal must not interrupt the cleaning up.
            return
        if number == signal.SIGHUP:
            _leave_dead_terminal()
        _time_stop()
        if self._requested_s is None:
            self._requested_s = time.monotonic()
        # An exception between acquiring the lock of `logging` and the `try` that releases it would leave it locked. The
        # next thread that logs would then wait forever (seen: Ray Data's executor, and with it the run). In an import
        # the exception would be swallowed, or leave a module half imported (seen: by a callback of importlib).
        lock: Any = logging._lock  # type: ignore[attr-defined]  # there is no public name
        is_patient = time.monotonic() - self._requested_s < _IMPORT_PATIENCE_S
        if lock._is_owned() or (is_patient and _is_importing(frame)):
            again = threading.Timer(_PATIENCE_S, self._signal_again, (number,))
            again.daemon = True
            again.start()
            return
        self._is_raised = True
        raise KeyboardInterrupt

    def _signal_again(self, number: int) -> None:
        # `check` may have raised already. A second exception would interrupt the cleaning up.
        if not self._is_raised:
            signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextmanager
def interruptible(*, says: str | None = None) -> Iterator[Interrupts]:
    """Let the signals raise KeyboardInterrupt inside the block, where that is safe.

    Outside of the main thread the handlers are not changed. `says` is a line for standard error, if
    the block has not ended half a second after the first signal.
    """
    interrupts = Interrupts()
    slow_stop = threading.Timer(_SLOW_STOP_S, _write, (f"\n{says}\n".encode(),))
    slow_stop.daemon = True
    if says is not None:
        _slow_stops.append(slow_stop)
    try:
        with handlers_kept(interrupts.handle):
            yield interrupts
    finally:
        slow_stop.cancel()
        if slow_stop in _slow_stops:
            _slow_stops.remove(slow_stop)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back the signals until the end of the block, then pass them to the earlier handlers.

    For steps that leave processes behind if they are interrupted halfway. The block cannot install handlers for them:
    Ray's would end the process at once. Processes that the block starts get process groups of their own. Where the
    block fails after a signal, the signal counts: it may be why.
    """
    kept: list[int] = []
    install = signal.signal

    def keep(number: int, _frame: FrameType | None) -> None:
        kept.append(number)
        _time_stop()

    def install_others(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in _SIGNALS else install(number, handler)

    try:
        with handlers_kept(keep):
            signal.signal = install_others  # type: ignore[assignment]
            # A terminal's Ctrl-C, `timeout` and Slurm signal the whole process group. If Ray's processes end while Ray
            # starts, its C++ code ends this process silently with exit code 1.
            _is_apart.set()
            try:
                yield
            finally:
                _is_apart.clear()
                signal.signal = install
    finally:
        for number in dict.fromkeys(kept):
            signal.raise_signal(number)


@contextmanager
def handlers_kept(handler: Callable[[int, FrameType | None], Any] | None = None) -> Iterator[None]:
    """Handle the signals by `handler` inside the block, if it is given. The handlers of before come back after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    if previous[signal.SIGHUP] is signal.SIG_IGN:
        del previous[signal.SIGHUP]
    try:
        for number in previous if handler is not None else ():
            signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _leave_group() -> None:
    # Outside Linux, Ray may end its processes by their group, so child processes stay in the group.
    if _is_apart.is_set() and sys.platform == "linux":
        os.setpgrp()


os.register_at_fork(after_in_child=_leave_group)


def _time_stop() -> None:
    for slow_stop in _slow_stops:
        if slow_stop.ident is None:
            slow_stop.start()


def _write(line: bytes) -> None:
    # Not by `sys.stderr`: the signal may have come while its lock is held.
    with suppress(OSError):
        os.write(2, line)


def _leave_dead_terminal() -> None:
    """Send output nowhere if the terminal is gone: each write would raise while the run ends cleanly."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)
            os.close(null)


def _is_importing(frame: FrameType | None) -> bool:
    frames = () if frame is None else traceback.walk_stack(frame)
    return any(each.f_code.co_filename == "<frozen importlib._bootstrap>" for each, _ in frames)
