"""Work in a few processes of one thread each, with a bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from workers.memory import KEPT_MEMORY

GivenT = TypeVar("GivenT")
FoundT = TypeVar("FoundT")


def run_jobs(work: Callable[[GivenT], FoundT], jobs: Sequence[GivenT], processes: int, *, shown: str) -> list[FoundT]:
    """Return what `work` makes of each job, in their order; one process is this one. Progress on stderr."""

    def bar(done: Iterable[FoundT]) -> Iterable[FoundT]:
        return track(done, shown, total=len(jobs), console=Console(stderr=True))

    if processes == 1 or len(jobs) < 2:
        return list(bar(work(job) for job in jobs))
    # Spawned: glibc and OpenMP read these when a process starts, and a fork after torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    with _children_environment(), ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        running = [pool.submit(work, job) for job in jobs]
        for _ in bar(done.result() for done in as_completed(running)):
            pass
    return [done.result() for done in running]


@contextmanager
def _children_environment() -> Iterator[None]:
    """Give the processes that start in it their settings; this process has its own again afterwards."""
    given = {**KEPT_MEMORY, "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
