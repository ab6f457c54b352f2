"""`verify` on a cluster: the driver walks the plan and the receipts, tasks look into the parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import ray

from pipeline.failures import original_error
from schemas.placement import PoolConfig
from store.content_checks import Problem
from store.location import RunLocation
from store.verify import CheckShards, ShardToCheck, check_shards

# A task's own cost is then little beside what it reads; and bounds what the driver holds of plan entries.
_SHARDS_A_TASK: Final = 4
_TASKS_IN_FLIGHT: Final = 256


def checking_on_cluster(pool: PoolConfig) -> CheckShards:
    """Return a check for `store.verify.verify_run` that Ray's workers make; this process must be connected.

    Args:
        pool: What a task needs: that of reading.
    """
    task = ray.remote(_check).options(num_cpus=pool.num_cpus, resources=dict(pool.resources))

    def check(location: RunLocation, shards: Iterator[ShardToCheck], quick: bool) -> Iterator[list[Problem]]:
        running: list[ray.ObjectRef[list[Problem]]] = []
        while some := list(islice(shards, _SHARDS_A_TASK)):
            running.append(task.remote(location, some, quick))
            if len(running) == _TASKS_IN_FLIGHT:
                yield _first(running)
        while running:
            yield _first(running)

    return check


def _check(location: RunLocation, shards: list[ShardToCheck], quick: bool) -> list[Problem]:
    return [problem for problems in check_shards(location, iter(shards), quick) for problem in problems]


def _first(running: list[ray.ObjectRef[list[Problem]]]) -> list[Problem]:
    """Return what the first task to end has found, and take it from `running`."""
    (done,), _ = ray.wait(running, num_returns=1)
    running.remove(done)
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        raise original_error(error) from error
