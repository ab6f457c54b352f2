"""The memory settings of new processes: of the trainings, `process_watch`, `process_pool`. The old ones come back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT

__all__ = ["MEMORY_ENVIRONMENT", "child_environment"]


@contextmanager
def child_environment(given: Mapping[str, str]) -> Iterator[None]:
    """Start new processes inside the block with `given` as their only memory settings; then restore the old ones."""
    before = dict(os.environ)
    for name in MEMORY_ENVIRONMENT:
        os.environ.pop(name, None)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
