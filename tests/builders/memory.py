"""What a call allocates at its highest, whoever else runs in this process."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Final

# Threads that an earlier test left (Ray's, a server's) may load megabytes at any moment, and only ever add.
TRIES: Final = 3


def least_peak_bytes(call: Callable[[int], object]) -> int:
    """Return the least of three peaks of Python's memory in `call`, which is given the number of the try."""
    peaks = []
    for number in range(TRIES):
        tracemalloc.start()
        try:
            call(number)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)
