"""Runs the jobs of experiments in a few processes of one thread each, with a bar; answers keep the order of jobs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import track

from evidence.recipes.child_environment import MEMORY_ENVIRONMENT, child_environment

GivenT = TypeVar("GivenT")
FoundT = TypeVar("FoundT")
_ENVIRONMENT: Final = {**MEMORY_ENVIRONMENT, "OMP_NUM_THREADS": "1"}


def run_jobs(work: Callable[[GivenT], FoundT], jobs: Sequence[GivenT], processes: int, *, shown: str) -> list[FoundT]:
    """Return what `work` makes of each job, in their order; one process is this one. Progress on stderr."""

    def bar(done: Iterable[FoundT]) -> Iterable[FoundT]:
        return track(done, shown, total=len(jobs), console=Console(stderr=True))

    if processes == 1 or len(jobs) < 2:
        return list(bar(work(job) for job in jobs))
    # Spawned: glibc and OpenMP read these when a process starts, and a fork after torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    with child_environment(_ENVIRONMENT), ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        running = [pool.submit(work, job) for job in jobs]
        for _ in bar(done.result() for done in as_completed(running)):
            pass
    return [done.result() for done in running]
