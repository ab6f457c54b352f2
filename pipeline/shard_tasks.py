"""The tasks of a shard without a model: reading its images and committing its tables.

Called by `executor` as Ray tasks; `run_plan` and `sample_estimate` use `Job` too. A shard may be processed
twice, so each task first looks whether its work is committed. A task that fails tries the same step without the shard:
if that works, the shard is set aside and the run goes on, else the run stops. A failed stage has no such test. The
session decides about it (`store.runs.pending_work`).
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import pyarrow as pa
import ray

from pseudoris.files.location import RunLocation
from pseudoris.images.prover import shared_prover
from pseudoris.pipeline.identity import check_packages
from pseudoris.pipeline.meters import stamp_enqueue_time, task_meter
from pseudoris.pipeline.stored_masks import StoredMasks
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, TransientError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import PlanEntry, Receipt, RunHeader
from pseudoris.schemas.shard import Shard, ShardFault
from pseudoris.schemas.shard_blocks import FAULT, block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import clear_attempts, read_attempts
from pseudoris.store.runs.commit import Provenance, as_quarantined, commit_retry, commit_shard, quarantined_ids
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import read_receipt
from pseudoris.store.runs.stored_exclusions import content_matcher
from pseudoris.store.sources.planned_images import read_or_refused
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.sources.source import open_root
from pseudoris.store.tables.parts import damaged_tables

logger = logging.getLogger(__name__)
# Reading raises one of these exceptions for a damaged plan or input.
INPUT_ERRORS: Final = (PseudorisError, OSError, ValueError, TypeError)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# Maps a session to the differences of packages that `check_packages` accepted in this process.
_CHECKED: Final[dict[str, tuple[str, ...]]] = {}
# At most this many other images, and as many shards, are tried if storage denies access, to see if it denies all.
_MAX_OTHERS: Final = 12
Value = TypeVar("Value")
# A shard is either committed or set aside, so one of the first two columns is null.
OUTCOME_SCHEMA: Final = pa.schema([("receipt", pa.large_string()), ("fault", FAULT), ("notice", pa.string())])


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run, as its workers see it.

    Attributes:
        source: Where the images are; a local place as an absolute path.
        header: If they have moved, its plan has their versions at the new place.
        config: The configuration of this session: the header's method with this session's placement.
        may_grow: Whether nodes may join the cluster during the run.
        session_nonce: Identifies this session. Attempts of other sessions count against no image.
        generations: By shard, the committed generation that a retry starts from, or whose damaged parts a repair writes
            again. Fixed when the session starts: a shard that is processed twice must not retry its own retry.
        is_retry: Whether only quarantined images are computed again.
        reasons: A retry computes only images quarantined for one of these reasons; None for all.
        masks: The run that the masks are taken from; None if they are proposed.
        moved_to: `source` if it is not that of the header, for receipts.
    """

    source: str
    location: RunLocation
    header: RunHeader
    config: RunConfig
    may_grow: bool = field(default=False, kw_only=True)
    session_nonce: str = field(default_factory=lambda: secrets.token_hex(6), kw_only=True)
    generations: Mapping[int, int] = field(default_factory=dict, kw_only=True)
    is_retry: bool = field(default=False, kw_only=True)
    reasons: frozenset[str] | None = field(default=None, kw_only=True)
    masks: StoredMasks | None = field(default=None, kw_only=True)
    moved_to: str | None = field(default=None, kw_only=True)


def stage_fault(shard: int, error: Exception) -> ShardFault:
    """Return the fault of a shard on which a stage raised."""
    message = str(error) if isinstance(error, PseudorisError) else f"{type(error).__name__}: {error}"
    return ShardFault(shard, message, is_config=isinstance(error, ConfigError))


def set_aside(fault: ShardFault, generation: int = 0) -> Shard:
    """Return the shard without its images, which passes the rest of the graph."""
    return Shard(fault.shard, generation, (), fault=fault)


def _hasty(job: Job) -> Job:
    """Return the job with short time limits for its stores: they were tried for minutes already."""
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
        # The image was read and only fails to decode, so reading works.
        return True
    except INPUT_ERRORS:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ShardWork:
    """The plan of a whole shard and the images to compute, both in plan order, both empty if it is committed.

    `receipt` is that of the shard in a repair.
    """

    generation: int
    planned: list[PlanEntry] = field(default_factory=list)
    entries: list[PlanEntry] = field(default_factory=list)
    receipt: Receipt | None = None


def shard_work(job: Job, shard: int) -> ShardWork:
    """Return the images to compute for a shard: all of its images, or those to retry.

    If the generation is committed there are none: if a node is lost after a commit, Ray runs the shard again.
    ConfigError if the plan, or the generation that a retry starts from, cannot be read.
    """
    if not job.is_retry:
        generation = job.generations.get(shard, 0)
        receipt = read_receipt(job.location, shard, generation)
        if receipt is not None and not (shard in job.generations and damaged_tables(job.location, receipt)):
            return ShardWork(generation)
        planned = read_shard_plan(job.location, job.header, shard)
        return ShardWork(generation, planned, planned, receipt)
    base = job.generations[shard]
    receipt = read_receipt(job.location, shard, base)
    if receipt is None:
        raise ConfigError(
            f"shard {shard} has no receipt of generation {base}: it was deleted. Run `pseudoris verify` to find all "
            "damage"
        )
    try:
        wanted = quarantined_ids(job.location, receipt, job.reasons)
    except ConfigError:
        # gc deletes parts of superseded generations, so the error counts only if there is no newer generation.
        if read_receipt(job.location, shard, base + 1) is None:
            raise
        return ShardWork(base + 1)
    if read_receipt(job.location, shard, base + 1) is not None:
        return ShardWork(base + 1)
    planned = read_shard_plan(job.location, job.header, shard)
    return ShardWork(base + 1, planned, [entry for entry in planned if entry.image_id in wanted])


def read_block(job: Job, shard: int) -> pa.Table:
    """Return the planned shard as one block with the images' bytes; every image decodes or is quarantined.

    The block of a committed shard holds no images and is marked as committed. The block of a shard that cannot be read
    holds none and says why. If other shards cannot be read either, the error is raised.
    """
    mixed = _checked_packages(job)
    try:
        shard_read = _read(job, shard)
    except INPUT_ERRORS as error:
        hasty, num = _hasty(job), job.header.num_shards
        # Three other shards, spread over the plan, are tried: neighbours may be in the same damaged folder.
        others = [(shard + num * quarter // 4) % num for quarter in (2, 1, 3)]
        if not any(_reads(hasty, other) for other in dict.fromkeys(others) if other != shard):
            raise
        logger.warning("Shard %d cannot be read, but other shards can: %s", shard, error)
        return shard_to_block(set_aside(replace(stage_fault(shard, error), is_proven=True)))
    if shard_read.is_committed:
        return shard_to_block(shard_read)
    task_meter(job.location.root).count_retries("read")
    return stamp_enqueue_time(shard_to_block(on_this_node(shard_read.with_mixed(mixed))))


def commit_block(block: pa.Table, job: Job) -> pa.Table:
    """Commit the block's shard; return a row of `OUTCOME_SCHEMA`: receipt, or why it is set aside, and notice."""
    shard = block_to_shard(block)
    outcome = shard.fault or _commit(job, shard)
    row: dict[str, object] = {"receipt": None, "fault": None, "notice": shard.notice}
    if isinstance(outcome, ShardFault):
        row["fault"] = asdict(outcome)
    else:
        task_meter(job.location.root).count_retries("commit")
        row["receipt"] = outcome.model_dump_json()
    return pa.Table.from_pylist([row], OUTCOME_SCHEMA)


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
    limits = job.config.images.hashed(is_needed=exclusions is not None and exclusions.has_hashes)
    with shared_prover(limits) as prover:
        shard_read = read_shard(
            job.source,
            job.config,
            work.entries,
            prover=prover,
            generation=work.generation,
            others=_others(job, shard, work),
            exclusions=exclusions,
        )
    if job.masks is not None:
        shard_read = job.masks.onto(shard_read)
    if work.receipt is not None:
        shard_read = as_quarantined(job.location, shard_read, work.receipt)
        shard_read = replace(shard_read, degraded=work.receipt.degraded)
    return replace(shard_read, planned_ids=tuple(entry.image_id for entry in work.planned))


def _commit(job: Job, shard: Shard) -> Receipt | ShardFault:
    history = read_attempts(job.location, shard.shard, shard.generation)
    mixed = _checked_packages(job)
    try:
        if shard.is_committed:
            receipt = read_receipt(job.location, shard.shard, shard.generation)
        else:
            shard = on_this_node(shard).with_mixed(mixed)
            is_repair = shard.shard in job.generations
            begun = history.begun_by_pool()
            commit = commit_retry if job.is_retry else partial(commit_shard, is_repair=is_repair)
            receipt = commit(
                job.location,
                shard,
                planned_ids=shard.planned_ids,
                embed_images=job.config.shards.embed_images,
                provenance=Provenance(begun, shard.degraded, shard.mixed, job.header.sha256, job.moved_to),
            )
        if receipt is None:
            raise TransientError(
                f"the receipt of shard {shard.shard}, generation {shard.generation}, was deleted during the run. "
                "Run the same command again"
            )
    except PseudorisError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FULL:
            # A full disk may have room for the few bytes of a probe but not for a part, so no probe is tried.
            raise
        try:
            _hasty(job).location.probe()
        except PseudorisError:
            raise error from None
        logger.warning("Shard %d cannot be committed, but OUT can be written: %s", shard.shard, error)
        return stage_fault(shard.shard, error)
    clear_attempts(job.location, history)
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
