"""A process of its own for one side of a comparison, under environment variables that glibc reads at its start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import psutil

from pseudoris.workers.process_memory import child_environment

_PERIOD_S: Final = 0.2
_held: Any = None


class SideProcess:
    """A process that builds one object, models and all, and calls its methods."""

    def __init__(self, environment: Mapping[str, str], build: Callable[..., Any], *given: Any, **named: Any) -> None:
        """Start it and return once `build(*given, **named)` is done there; all of them must pickle."""
        self._pool = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_hold, initargs=(partial(build, *given, **named),)
        )
        with child_environment(environment):
            self._process = psutil.Process(self._pool.submit(os.getpid).result())

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """Return what a method of the object returns."""
        return self._pool.submit(_call, method, given, named).result()

    def watched(self, method: str, *given: Any) -> tuple[Any, int]:
        """Return what a method returns, and the process's highest proportional set size meanwhile, in bytes."""
        future = self._pool.submit(_call, method, given, {})
        peak = self._pss_bytes()
        while not future.done():
            wait([future], timeout=_PERIOD_S)
            peak = max(peak, self._pss_bytes())
        return future.result(), peak

    def _pss_bytes(self) -> int:
        """Return what the process holds now: a page that n processes share counts as 1/n."""
        return int(self._process.memory_full_info().pss)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _hold(build: Callable[[], Any]) -> None:
    global _held
    _held = build()


def _call(method: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return getattr(_held, method)(*given, **named)
