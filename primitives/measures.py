"""Measurements of `files` and `workers`, for `pipeline/meters`. Without a collector they cost almost nothing.

They are here because `files` may not import `workers`, and neither knows the collector.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

# `BATCH_FILL` is the share of a forward pass's rows that are not padding, in (0, 1]. `of` says what the rows are.
BATCH_FILL: Final = "batch_fill"
# `LOAD_SECONDS` is how long the model of a stage took to load. `of` is the stage.
LOAD_SECONDS: Final = "load_seconds"
# `CACHE_BYTES` is the most memory of the captioner's keys and values while one tree of prefixes was decoded.
CACHE_BYTES: Final = "cache_bytes"
# `STORAGE_RETRIES` counts storage requests that were sent again after an error or without an answer.
STORAGE_RETRIES: Final = "storage_retries"

# Maps (`name`, `of`) of `record` to the values that a block collected, in order. `of` is "" by default.
Measures = dict[tuple[str, str], list[float]]

_counts: dict[str, int] = {}
_counts_lock = threading.Lock()
# This is a context variable, so that threads that collect at the same time do not mix their values.
_collecting: ContextVar[Measures | None] = ContextVar("collecting", default=None)


def record(name: str, value: float, *, of: str = "") -> None:
    """Add a value to this context's collector; do nothing if there is none."""
    measures = _collecting.get()
    if measures is not None:
        measures.setdefault((name, of), []).append(value)


@contextmanager
def collecting() -> Iterator[Measures]:
    """Collect what this thread records inside the block. A nested block collects its own values only."""
    measures: Measures = {}
    token = _collecting.set(measures)
    try:
        yield measures
    finally:
        _collecting.reset(token)


def count(name: str, number: int = 1) -> None:
    """Add to a count of this process. Safe from any thread, including pool threads that do not inherit the context."""
    with _counts_lock:
        _counts[name] = _counts.get(name, 0) + number


def take_counts() -> dict[str, int]:
    """Return the counts since the last call, and reset them."""
    with _counts_lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
