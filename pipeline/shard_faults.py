"""Tells a failure of one shard from a failure that every shard would have.

The failed step is tried where the shard has no part in it. If that works, the shard is set aside and the run goes on.
If it fails too, the error is raised as it was: the run stops at once. A failed stage has no such test. There the
session decides, by the commits of other shards (`store.runs.set_aside`).
"""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from typing import Final

from pseudoris.images.prover import shared_prover
from pseudoris.pipeline.job import Job
from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError
from pseudoris.schemas.shard import Shard, ShardFault
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources.planned_images import read_or_refused
from pseudoris.store.sources.source import open_root

logger = logging.getLogger(__name__)

# What reading may raise for a damaged plan or input.
INPUT_ERRORS: Final = (PseudorisError, OSError, ValueError, TypeError)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def input_fault(job: Job, shard: int, error: Exception) -> ShardFault:
    """Return the fault of a shard that cannot be read, if an image of another shard can.

    Three other shards are tried, spread over the plan: its neighbours may be in the same damaged folder.

    Raises:
        Exception: `error`, if none can be read, or if the plan has no other shard.
    """
    hasty = _hasty(job)
    num = job.header.num_shards
    others = [(shard + num * quarter // 4) % num for quarter in (2, 1, 3)]
    if not any(_reads(hasty, other) for other in dict.fromkeys(others) if other != shard):
        raise error
    logger.warning("Shard %d cannot be read, but other shards can: %s", shard, error)
    return replace(stage_fault(shard, error), is_proven=True)


def stage_fault(shard: int, error: Exception) -> ShardFault:
    """Return the fault of a shard on which a stage raised."""
    message = str(error) if isinstance(error, PseudorisError) else f"{type(error).__name__}: {error}"
    return ShardFault(shard, message, is_config=isinstance(error, ConfigError))


def commit_fault(job: Job, shard: int, error: PseudorisError) -> ShardFault:
    """Return the fault of a shard that cannot be committed, if OUT takes other files.

    Raises:
        PseudorisError: `error`, if it takes none or is full.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in _FULL:
        # A disk without room for a part may have room for the few bytes of a probe.
        raise error
    try:
        _hasty(job).location.probe()
    except PseudorisError:
        raise error from None
    logger.warning("Shard %d cannot be committed, but OUT can be written: %s", shard, error)
    return stage_fault(shard, error)


def set_aside(fault: ShardFault, generation: int = 0) -> Shard:
    """Return the shard without its images, which passes the rest of the graph."""
    return Shard(fault.shard, generation, (), fault=fault)


def _hasty(job: Job) -> Job:
    """Return the job with little patience for its stores: they were tried for minutes already."""
    config = job.config
    limits = config.placement.storage.hasty()
    placement = config.placement.model_copy(update={"storage": limits})
    location = RunLocation.open(job.location.root, config.source.endpoint_url, limits)
    return replace(job, location=location, config=config.model_copy(update={"placement": placement}))


def _reads(job: Job, shard: int) -> bool:
    config = job.config
    try:
        entries = read_shard_plan(job.location, job.header, shard)[:1]
        root = open_root(job.source, config.source, config.placement.storage)
        (reading,) = read_or_refused(root, entries, config)
        if not isinstance(reading.outcome, bytes):
            return False
        with shared_prover(config.images) as prover:
            prover.prove(reading.outcome)
    except ImageError:
        # It was read, and its decoder is well.
        return True
    except INPUT_ERRORS:
        return False
    return True
