"""`--retry-failed`: which images of which shards are computed again, and from which generation. No Ray."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.job import Job
from schemas.errors import ConfigError
from schemas.plan import PlanEntry
from schemas.run import Receipt
from schemas.shard import Shard
from schemas.tables import FAILURE_REASONS
from store.commit import committed_shard
from store.generations import quarantined_ids
from store.plan import read_shard_plan
from store.receipts import read_receipt


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What is read and computed of a shard: the generation to write, and its images, in plan order."""

    generation: int
    entries: list[PlanEntry]


def parse_reasons(words: str | None) -> frozenset[str] | None:
    """Return the reason codes of `missing,decoder_timeout`; None for None.

    Raises:
        ConfigError: One is not a reason code.
    """
    if words is None:
        return None
    reasons = frozenset(word.strip() for word in words.split(","))
    unknown = sorted(reasons - FAILURE_REASONS.keys())
    if unknown:
        raise ConfigError(f"no image is quarantined as {unknown[0]!r}: the reasons are {', '.join(FAILURE_REASONS)}")
    return reasons


def num_to_retry(receipt: Receipt, reasons: frozenset[str] | None) -> int:
    """Return how many images of the shard are in quarantine for one of `reasons`, or for any."""
    return sum(count for reason, count in receipt.counts.reasons.items() if reasons is None or reason in reasons)


def shard_work(job: Job, shard: int) -> ShardWork | Shard:
    """Return what is to be read of a shard: all of it, or what is retried.

    Returns:
        A `Shard` where the generation to write stands already, as after the loss of a node that had committed, or
        whose commit was told to nobody: it goes through the graph without work.

    Raises:
        ConfigError: The plan, or the generation that the retry starts from, cannot be read.
        TransientError: Storage failed.
    """
    entries = read_shard_plan(job.location, job.header, shard)
    if job.retry is None:
        if read_receipt(job.location, shard, 0) is not None:
            return committed_shard(shard, 0, entries[0])
        return ShardWork(0, entries)
    base = job.retry.generations[shard]
    receipt = read_receipt(job.location, shard, base)
    if receipt is None:
        raise ConfigError(f"shard {shard} has no generation {base} to retry: was its receipt deleted?")
    try:
        wanted = quarantined_ids(job.location, receipt, job.retry.reasons)
    except ConfigError:
        # Collected as superseded; what superseded it is told below.
        wanted = frozenset()
    if read_receipt(job.location, shard, base + 1) is not None:
        return committed_shard(shard, base + 1, entries[0])
    if not wanted:
        raise ConfigError(
            f"the failures of shard {shard}, generation {base}, cannot be read: run `pseudoris verify` for the extent"
        )
    return ShardWork(base + 1, [entry for entry in entries if entry.image_id in wanted])
