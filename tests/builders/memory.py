"""What a call allocates at its highest, whoever else runs in this process."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# Threads that an earlier test left (Ray's, a server's) may load megabytes at any moment, and only ever add.
TRIES: Final = 3


@contextmanager
def traced_peak() -> Iterator[Callable[[], int]]:
    """Give the block what returns the highest that Python's memory has been in it, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def least_peak_bytes(call: Callable[[int], object]) -> int:
    """Return the least of three peaks of Python's memory in `call`, which is given the number of the try."""
    peaks = []
    for number in range(TRIES):
        with traced_peak() as peak_bytes:
            call(number)
            peaks.append(peak_bytes())
    return min(peaks)
