"""Signals become one exception, at a point where it breaks nothing."""

from __future__ import annotations

import logging
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from pseudoris.pipeline import executor
from pseudoris.pipeline.interrupts import Interrupts, interruptible, signals_deferred
from pseudoris.store.runs.pending_work import PendingWork


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """Under `nohup` this process ignores them, and the product keeps that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _signal_and_wait(number):
    os.kill(os.getpid(), number)
    time.sleep(5)


def _with_the_logging_lock(steps):
    logging._acquireLock()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        steps.append("not interrupted while it is taken")
    finally:
        logging._releaseLock()
    time.sleep(5)
    steps.append("too late")


def _hung_up_twice(steps):
    try:
        _signal_and_wait(signal.SIGHUP)
    finally:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.1)
        steps.append("cleaned up")


def _deferring(steps):
    with signals_deferred():
        # As Ray does, whose handler ends the process.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("goes on")
    steps.append("too late")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_raises_inside_the_block_and_the_handlers_of_before_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        _signal_and_wait(number)
    assert signal.getsignal(number) is before


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("the hangup interrupts")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_does_not_interrupt_what_the_first_one_ends():
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        _hung_up_twice(steps)
    assert steps == ["cleaned up"]


CLOSED = """
import sys, time
from pseudoris.pipeline.interrupts import interruptible
try:
    with interruptible():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("nobody reads this", flush=True)
    sys.exit(130)
"""


def test_a_terminal_that_closes_ends_a_command_as_a_signal_does():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", CLOSED])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1024)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


def test_a_signal_while_the_logging_lock_is_taken_waits_until_it_is_given_back():
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        _with_the_logging_lock(steps)
    assert steps == ["not interrupted while it is taken"]
    said = threading.Thread(target=lambda: logging.getLogger(__name__).info("free again"), daemon=True)
    said.start()
    said.join(timeout=30)
    assert not said.is_alive()


def test_a_request_that_a_library_swallows_is_remembered():
    with interruptible() as interrupts:
        interrupts.check()
        with suppress(KeyboardInterrupt):
            _signal_and_wait(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_a_signal_that_was_put_off_and_that_a_check_answered_does_not_come_again():
    with interruptible() as interrupts:
        logging._acquireLock()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
        finally:
            logging._releaseLock()
        # Several times the time after which it would come.
        time.sleep(0.3)


def test_deferred_signals_come_at_the_end_of_the_block_whatever_handlers_it_installed():
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        _deferring(steps)
    assert steps == ["goes on"]


def test_a_deferred_signal_counts_where_the_block_fails_after_it():
    def start() -> None:
        with signals_deferred():
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("Ray did not start")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        start()


def test_in_another_thread_nothing_is_touched():
    handlers = []

    def enter():
        with interruptible() as interrupts, signals_deferred():
            interrupts.check()
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_a_requested_stop_ends_the_executor_once_the_commit_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(executor, "run_shards", lambda *arguments, **options: (shard for shard in (5, 6, 7)))
    interrupts = Interrupts()
    receipts = executor.ray_executor(None, {}, interrupts)(PendingWork([5, 6, 7]))
    assert next(receipts) == 5
    # Ray may swallow the exception of a signal.
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(2, None)
    with pytest.raises(KeyboardInterrupt):
        next(receipts)


def test_a_stop_that_takes_longer_says_so_within_a_second(tmp_path):
    code = (
        "import os, signal, time\n"
        "from pseudoris.pipeline.interrupts import interruptible, signals_deferred\n"
        "with interruptible(says='stopping'), signals_deferred():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "asked\n"
        asked = time.monotonic()
        assert process.stderr.readline() + process.stderr.readline() == "\nstopping\n"
        took = time.monotonic() - asked
        process.kill()
    assert took < 30
