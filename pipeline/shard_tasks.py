"""The tasks of a shard that need no model: reading its images and committing its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, TypeVar

import pyarrow as pa
import ray

from pseudoris.images.prover import shared_prover
from pseudoris.pipeline.identity import check_packages
from pseudoris.pipeline.job import Job
from pseudoris.pipeline.meters import report_counts, stamp_enqueue_time
from pseudoris.pipeline.shard_faults import INPUT_ERRORS, commit_fault, input_fault, set_aside
from pseudoris.schemas.errors import ConfigError, PseudorisError, TransientError
from pseudoris.schemas.run_records import PlanEntry, Receipt
from pseudoris.schemas.shard import Shard, ShardFault
from pseudoris.schemas.shard_blocks import FAULT, block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import AttemptHistory, clear_attempts, read_attempts
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import read_receipt
from pseudoris.store.runs.retry_commit import commit_retry, quarantined_ids
from pseudoris.store.runs.stored_exclusions import content_matcher
from pseudoris.store.sources.proven_shard import read_shard

# By session, the differences that `check_packages` accepted in this process.
_CHECKED: Final[dict[str, tuple[str, ...]]] = {}

# Other images of the shard, and other shards, that are asked for if images are refused.
_MAX_OTHERS: Final = 12

Value = TypeVar("Value")

# One of the two is null: a shard is committed or set aside.
OUTCOME_SCHEMA: Final = pa.schema([("receipt", pa.large_string()), ("fault", FAULT)])


@dataclass(frozen=True, slots=True)
class ShardWork:
    """The work to do for a shard.

    Attributes:
        generation: The generation to write.
        planned: The plan of the whole shard, in order; empty if the generation is already committed.
        entries: The images to compute, in plan order; empty if the generation is already committed.
    """

    generation: int
    planned: list[PlanEntry] = field(default_factory=list)
    entries: list[PlanEntry] = field(default_factory=list)


def shard_work(job: Job, shard: int) -> ShardWork:
    """Return the images to compute for a shard: all of its images, or those to retry.

    Nothing to do if the generation to write is committed: if a node is lost after a commit, Ray runs the shard again.

    Raises:
        ConfigError: The plan, or the generation that the retry starts from, cannot be read.
        TransientError: Storage failed.
    """
    if job.retry is None:
        if read_receipt(job.location, shard, 0) is not None:
            return ShardWork(0)
        planned = read_shard_plan(job.location, job.header, shard)
        return ShardWork(0, planned, planned)
    base = job.retry.generations[shard]
    receipt = read_receipt(job.location, shard, base)
    if receipt is None:
        raise ConfigError(
            f"shard {shard} has no receipt of generation {base}: it was deleted. Run `pseudoris verify` to find all "
            "damage"
        )
    try:
        wanted = quarantined_ids(job.location, receipt, job.retry.reasons)
    except ConfigError:
        # The generation was replaced, and gc deleted its parts. The check below finds the generation that replaced it.
        wanted = frozenset()
    if read_receipt(job.location, shard, base + 1) is not None:
        return ShardWork(base + 1)
    if not wanted:
        raise ConfigError(
            f"the failures of shard {shard}, generation {base}, cannot be read: run `pseudoris verify` to see why"
        )
    planned = read_shard_plan(job.location, job.header, shard)
    return ShardWork(base + 1, planned, [entry for entry in planned if entry.image_id in wanted])


def read_block(job: Job, shard: int) -> pa.Table:
    """Return the planned shard as one block with the images' bytes; every image decodes or is quarantined.

    The block of a committed shard holds no images and is marked as committed. That of a shard that cannot be read,
    while others can, holds none and says why.
    """
    mixed = _checked_packages(job)
    try:
        shard_read = _read(job, shard)
    except INPUT_ERRORS as error:
        return shard_to_block(set_aside(input_fault(job, shard, error)))
    if shard_read.is_committed:
        return shard_to_block(shard_read)
    report_counts(job.location.root, "read")
    return stamp_enqueue_time(shard_to_block(on_this_node(shard_read.with_mixed(mixed))))


def commit_block(block: pa.Table, job: Job) -> pa.Table:
    """Commit the block's shard; return one row of `OUTCOME_SCHEMA`, with its receipt or with why it is set aside."""
    shard = block_to_shard(block)
    outcome = shard.fault or _commit(job, shard)
    if isinstance(outcome, ShardFault):
        return pa.table({"receipt": [None], "fault": [asdict(outcome)]}, schema=OUTCOME_SCHEMA)
    report_counts(job.location.root, "commit")
    return pa.table({"receipt": [outcome.model_dump_json()], "fault": [None]}, schema=OUTCOME_SCHEMA)


def block_to_outcome(block: pa.Table) -> Receipt | ShardFault:
    """Return the outcome in the block of `commit_block`."""
    (row,) = block.to_pylist()
    return ShardFault(**row["fault"]) if row["receipt"] is None else Receipt.model_validate_json(row["receipt"])


def on_this_node(shard: Shard) -> Shard:
    """Return the shard with this node as the last one that worked on it."""
    node = this_node()
    return shard if shard.nodes and shard.nodes[-1] == node else replace(shard, nodes=(*shard.nodes, node))


def this_node() -> str:
    """Return Ray's id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def _read(job: Job, shard: int) -> Shard:
    work = shard_work(job, shard)
    if not work.entries:
        return Shard(shard, work.generation, (), is_committed=True)
    exclusions = content_matcher(job.location, job.header)
    has_hash = exclusions is not None and exclusions.has_hashes
    with shared_prover(job.config.images, has_hash=has_hash) as prover:
        shard_read = read_shard(
            job.source,
            job.config,
            work.entries,
            prover=prover,
            generation=work.generation,
            others=_others(job, shard, work),
            exclusions=exclusions,
        )
    return replace(shard_read, planned_ids=tuple(entry.image_id for entry in work.planned))


def _commit(job: Job, shard: Shard) -> Receipt | ShardFault:
    history = read_attempts(job.location, shard.shard, shard.generation)
    mixed = _checked_packages(job)
    try:
        receipt = _existing_receipt(job, shard) if shard.is_committed else _new_receipt(job, shard, mixed, history)
    except PseudorisError as error:
        return commit_fault(job, shard.shard, error)
    clear_attempts(job.location, history)
    return receipt


def _new_receipt(job: Job, shard: Shard, mixed: tuple[str, ...], history: AttemptHistory) -> Receipt:
    shard = on_this_node(shard).with_mixed(mixed)
    commit = commit_shard if shard.generation == 0 else commit_retry
    outcome = commit(
        job.location,
        shard,
        planned_ids=shard.planned_ids,
        embed_images=job.config.shards.embed_images,
        provenance=Provenance(history.begun_by_pool(), shard.degraded, shard.mixed, job.header.sha256),
    )
    return outcome.receipt


def _existing_receipt(job: Job, shard: Shard) -> Receipt:
    receipt = read_receipt(job.location, shard.shard, shard.generation)
    if receipt is None:
        raise TransientError(
            f"the receipt of shard {shard.shard}, generation {shard.generation}, was deleted during the run. "
            "Run the same command again"
        )
    return receipt


def _others(job: Job, shard: int, work: ShardWork) -> Iterator[PlanEntry]:
    """Yield a few images that the work does not include, spread over the plan: neighbours may share a folder."""
    wanted = {entry.image_id for entry in work.entries}
    yield from _spread([entry for entry in work.planned if entry.image_id not in wanted])
    for number in _spread(range(job.header.num_shards)):
        if number != shard:
            yield read_shard_plan(job.location, job.header, number)[0]


def _spread(values: Sequence[Value]) -> Sequence[Value]:
    return values[:: max(1, -(-len(values) // _MAX_OTHERS))]


def _checked_packages(job: Job) -> tuple[str, ...]:
    """Return the accepted differences of this process; checked once, as Ray uses a process for many blocks."""
    if job.session_nonce not in _CHECKED:
        _CHECKED.clear()
        _CHECKED[job.session_nonce] = check_packages(job.header.identity, job.config)
    return _CHECKED[job.session_nonce]
