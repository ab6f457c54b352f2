"""`verify` on a cluster: the driver walks the plan and the receipts, tasks check the parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import ray

from pseudoris.pipeline.ray_errors import task_result
from pseudoris.schemas.placement import PoolConfig
from pseudoris.store.checks.content import Problem
from pseudoris.store.checks.verify import CheckShards, ShardToCheck, check_shards
from pseudoris.store.location import RunLocation

# The start of a task then costs little compared with its reads. It also bounds the plan entries that the driver holds.
_SHARDS_A_TASK: Final = 4
_TASKS_IN_FLIGHT: Final = 256


def checking_on_cluster(pool: PoolConfig) -> CheckShards:
    """Return a check for `verify_run` that runs in Ray tasks; this process must be connected to Ray.

    Args:
        pool: The resources of a task: the pool of reading.
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
    """Wait for the first task to end; remove it from `running` and return its problems."""
    (done,), _ = ray.wait(running, num_returns=1)
    running.remove(done)
    return task_result(done)
