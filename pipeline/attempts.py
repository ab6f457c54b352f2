"""A stage actor's attempt at a shard: recorded before the work, so that a death in its midst is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.cluster import living_nodes
from pipeline.job import Job
from schemas.errors import TransientError
from schemas.shard import Shard
from store.attempts import begin_attempt, end_attempt


@contextmanager
def attempted(job: Job, shard: Shard, pool: str) -> Iterator[int]:
    """Record the attempt around the block; yield how many processes have died with this shard before.

    Deaths along with their node or their driver do not count.

    Raises:
        TransientError: Too many have died: Ray itself would begin the shard again for ever.
    """
    node = ray.get_runtime_context().get_node_id()
    attempt, history = begin_attempt(job.location, shard.shard, shard.generation, pool=pool, start=job.start, node=node)
    num_deaths = 0
    if history.begun != history.ended:
        living = [str(known["NodeID"]) for known in living_nodes()]
        num_deaths = history.num_deaths(pool=pool, start=job.start, living_nodes=living)
    try:
        if num_deaths >= job.config.placement.max_deaths_per_shard:
            raise TransientError(
                f"shard {shard.shard} has ended its process {num_deaths} times on nodes that live, and no image of it "
                "could be shown to do so alone. Ray's logs hold the signals: where it was killed for want of memory, "
                f"give the actors of placement.{pool} more of it (num_cpus, or fewer of them); where the accelerator "
                "failed, look at the node. An image that the log of the search names can be taken out of SOURCE: it is "
                "quarantined as missing then"
            )
        yield num_deaths
    finally:
        # Not reached where the process dies, which is the point.
        end_attempt(job.location, attempt)
