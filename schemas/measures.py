"""What store and workers report beside their results: plain hooks, next to free while nobody collects.

They stand on the ground floor because neither of the two may import the other, and neither knows who listens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

# Share of a forward pass's rows that hold something, in (0, 1]; `of` is what the rows are.
BATCH_FILL: Final = "batch_fill"
# Seconds that a stage's model took to load; `of` is the stage.
LOAD_SECONDS: Final = "load_seconds"
# Bytes that the captioner's keys and values had taken at the peak of a walk.
CACHE_BYTES: Final = "cache_bytes"
# A count: another try of a request that storage did not answer.
STORAGE_RETRIES: Final = "storage_retries"


@dataclass(slots=True)
class Measures:
    """What was recorded while somebody collected.

    Attributes:
        values: In order of recording, by name and by what they are of ("" where nothing was said).
    """

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)


_counts: dict[str, int] = {}
_counts_lock = threading.Lock()
# Of the context, not of the module: two threads that collect do not read each other's values.
_collecting: ContextVar[Measures | None] = ContextVar("collecting", default=None)


def record(name: str, value: float, *, of: str = "") -> None:
    """Add a value to whatever collects in this context; nothing happens where nobody does."""
    measures = _collecting.get()
    if measures is not None:
        measures.values.setdefault((name, of), []).append(value)


@contextmanager
def collecting() -> Iterator[Measures]:
    """Collect what this thread records inside the block; a block within it collects for itself alone."""
    measures = Measures()
    token = _collecting.set(measures)
    try:
        yield measures
    finally:
        _collecting.reset(token)


def count(name: str, number: int = 1) -> None:
    """Add to a count of this process, from any thread: where work is spread over threads, no context follows it."""
    with _counts_lock:
        _counts[name] = _counts.get(name, 0) + number


def take_counts() -> dict[str, int]:
    """Return the counts since the last call, and begin anew."""
    with _counts_lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
