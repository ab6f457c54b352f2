"""The work of a block in a worker: read it, take it through models, commit it. No graph in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pyarrow as pa
import ray

from pipeline.identity import STAGES, check_process
from pipeline.job import Job
from pipeline.reading import read_shard
from schemas.blocks import block_to_shard, shard_to_block
from schemas.errors import PseudorisError
from schemas.run import Receipt
from schemas.shard import Shard
from store.commit import commit_shard
from store.plan import read_shard_plan
from workers.images.formats import import_plugins
from workers.images.proving import Prover

Stage = Callable[[Shard], Shard]

RECEIPT_BLOCK_SCHEMA: Final = pa.schema([("shard", pa.int64()), ("receipt", pa.large_string())])


def read_block(job: Job, shard: int) -> pa.Table:
    """Return the planned shard as one block: bytes read, every image proven to decode or quarantined."""
    entries = read_shard_plan(job.location, job.header, shard)
    # A prover a shard, not one that lives on: what an image may have done to it ends here.
    with Prover(job.config.images) as prover:
        return shard_to_block(_on_this_node(read_shard(job.source, job.config, entries, prover=prover)))


class StageActor:
    """Blocks in, blocks out, through the models of the named stages, loaded once.

    A constructor that raises is not raised from: Ray would report the death of an actor, with our
    message in a page of traceback. It is raised by the first call instead, as what it is.
    """

    def __init__(self, names: tuple[str, ...], job: Job) -> None:
        """Load the models of `names` (in stage order) and check that this process computes as the run does."""
        self._stages: list[Stage] = []
        self._error: PseudorisError | None = None
        # Bytes that nobody needs any more would only fill the object store.
        self._drops_bytes = names[-1] == STAGES[-1].name and not job.config.shards.embed_images
        try:
            held = [stage for stage in STAGES if stage.name in names]
            check_process(job.header.identity, job.config, held)
            # What reading has proven with a plug-in, the stages decode with it.
            import_plugins(job.config.images.decoder_plugins)
            self._stages = [stage.build(job.config) for stage in held]
        except PseudorisError as error:
            self._error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the block after every stage, one shard as it came."""
        if self._error is not None:
            raise self._error
        shard = block_to_shard(block)
        for stage in self._stages:
            shard = stage(shard)
        if self._drops_bytes:
            shard = shard.with_images(tuple(replace(image, data=b"") for image in shard.images))
        return shard_to_block(_on_this_node(shard))


def commit_block(block: pa.Table, job: Job) -> pa.Table:
    """Commit the block's shard and return its receipt as one row of `RECEIPT_BLOCK_SCHEMA`."""
    shard = _on_this_node(block_to_shard(block))
    planned = [entry.image_id for entry in read_shard_plan(job.location, job.header, shard.shard)]
    outcome = commit_shard(job.location, shard, planned_ids=planned, embed_images=job.config.shards.embed_images)
    row = {"shard": [shard.shard], "receipt": [outcome.receipt.model_dump_json()]}
    return pa.table(row, schema=RECEIPT_BLOCK_SCHEMA)


def block_to_receipt(block: pa.Table) -> Receipt:
    """Return the receipt that `commit_block` put into its block."""
    return Receipt.model_validate_json(block["receipt"][0].as_py())


def _on_this_node(shard: Shard) -> Shard:
    node = ray.get_runtime_context().get_node_id()
    return shard if shard.nodes and shard.nodes[-1] == node else replace(shard, nodes=(*shard.nodes, node))
