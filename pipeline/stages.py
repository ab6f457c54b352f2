"""The work of a block in a worker: read it, take it through models, commit it. No graph in here."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import ray

from pipeline.attempts import attempted
from pipeline.identity import check_packages, check_process
from pipeline.job import Job
from pipeline.metering import StageMeter, handed_on, report_counts
from pipeline.retrying import shard_work
from schemas.blocks import block_to_shard, shard_to_block
from schemas.errors import BrokenDeviceError, ConfigError
from schemas.run import Receipt
from schemas.shard import Shard
from store.attempts import AttemptHistory, clear_attempts, read_attempts
from store.commit import CommitOutcome, Provenance, commit_of_stand_in, commit_shard
from store.generations import commit_retry
from store.plan import read_shard_plan
from store.sources.shards import read_shard
from workers.images.formats import import_plugins
from workers.images.proving import kept_prover
from workers.stages import STAGES, kinds_of

if TYPE_CHECKING:
    from workers.enduring import EnduringStages

logger = logging.getLogger(__name__)

EXIT_BROKEN_DEVICE: Final = 87
# By start of a run, what `check_packages` has accepted in this process.
_CHECKED: Final[dict[str, tuple[str, ...]]] = {}

RECEIPT_BLOCK_SCHEMA: Final = pa.schema([("shard", pa.int64()), ("receipt", pa.large_string())])


def read_block(job: Job, shard: int) -> pa.Table:
    """Return the planned shard as one block: bytes read, every image proven to decode or quarantined."""
    work = shard_work(job, shard)
    if isinstance(work, Shard):
        return shard_to_block(_on_this_node(work))
    mixed = _checked_packages(job)
    with kept_prover(job.config.images) as prover:
        shard_read = read_shard(job.source, job.config, work.entries, prover=prover, generation=work.generation)
    report_counts(job.location.root, "read")
    return handed_on(shard_to_block(_on_this_node(shard_read.with_mixed(mixed))))


class StageActor:
    """Blocks in, blocks out, through the models of the named stages, loaded once.

    A mistake of the user's is not raised by the constructor: Ray would report the death of an actor, with our
    message in a page of traceback. It is raised by the first call instead, as what it is. Whatever else goes wrong
    while models load is this node's trouble: Ray Data starts another actor, so many times.
    """

    def __init__(self, names: tuple[str, ...], job: Job, pool: str) -> None:
        """Load the models of `names` (in stage order) and check that this process computes as the run does.

        Args:
            names: Of the stages that this pool holds.
            job: The run.
            pool: Its name, for the record of attempts.
        """
        self._job = job
        self._pool = pool
        self._stages: EnduringStages | None = None
        self._error: ConfigError | None = None
        self._meter = StageMeter(job.location.root, pool)
        self._mixed: tuple[str, ...] = ()
        # Bytes that nobody needs any more would only fill the object store.
        self._drops_bytes = names[-1] == STAGES[-1].name and not job.config.shards.embed_images
        # Here and not above: processes that read and commit live without torch, its seconds and its memory.
        from workers.enduring import EnduringStages

        try:
            self._mixed = check_process(job.header.identity, job.config, kinds_of(names))
            # What reading has proven with a plug-in, the stages decode with it.
            import_plugins(job.config.images.decoder_plugins)
            with self._meter.loading():
                self._stages = EnduringStages(names, job.config)
        except ConfigError as error:
            self._error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the block after every stage, one shard as it came."""
        if self._stages is None:
            raise self._error or RuntimeError("no stages")
        shard = block_to_shard(block).with_mixed(self._mixed)
        measured = self._meter.at_work(block, nodes=shard.nodes, on_node=_this_node())
        with measured, attempted(self._job, shard, self._pool) as num_deaths:
            try:
                shard = self._stages(shard, num_deaths=num_deaths)
            except BrokenDeviceError:
                # Whatever this process would do next on its device fails too. Ray starts another in its place, which
                # takes the shard again; the attempt stays open, and counts as a death.
                logger.exception("the accelerator failed on shard %d: this process ends", shard.shard)
                logging.shutdown()
                os._exit(EXIT_BROKEN_DEVICE)
        if self._drops_bytes:
            shard = shard.with_images(tuple(replace(image, data=b"") for image in shard.images))
        return handed_on(shard_to_block(_on_this_node(shard)))


def commit_block(block: pa.Table, job: Job) -> pa.Table:
    """Commit the block's shard and return its receipt as one row of `RECEIPT_BLOCK_SCHEMA`."""
    shard = _on_this_node(block_to_shard(block)).with_mixed(_checked_packages(job))
    history = read_attempts(job.location, shard.shard, shard.generation)
    outcome = commit_of_stand_in(job.location, shard) or _commit(job, shard, history)
    clear_attempts(job.location, history)
    report_counts(job.location.root, "commit")
    row = {"shard": [shard.shard], "receipt": [outcome.receipt.model_dump_json()]}
    return pa.table(row, schema=RECEIPT_BLOCK_SCHEMA)


def _commit(job: Job, shard: Shard, history: AttemptHistory) -> CommitOutcome:
    planned = [entry.image_id for entry in read_shard_plan(job.location, job.header, shard.shard)]
    commit = commit_shard if shard.generation == 0 else commit_retry
    return commit(
        job.location,
        shard,
        planned_ids=planned,
        embed_images=job.config.shards.embed_images,
        provenance=Provenance(attempts=history.starts(), degraded=shard.degraded, mixed=shard.mixed),
    )


def block_to_receipt(block: pa.Table) -> Receipt:
    """Return the receipt that `commit_block` put into its block."""
    return Receipt.model_validate_json(block["receipt"][0].as_py())


def _checked_packages(job: Job) -> tuple[str, ...]:
    """Return what differs in this process and is accepted; Ray uses a process for many blocks, one look serves all."""
    if job.start not in _CHECKED:
        _CHECKED.clear()
        _CHECKED[job.start] = check_packages(job.header.identity, job.config)
    return _CHECKED[job.start]


def _on_this_node(shard: Shard) -> Shard:
    node = _this_node()
    return shard if shard.nodes and shard.nodes[-1] == node else replace(shard, nodes=(*shard.nodes, node))


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())
