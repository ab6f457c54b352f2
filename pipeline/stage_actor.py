"""An actor that holds the models of a pool and runs shards through them. Ray Data starts it for `executor`.

It checks that its process has the run's identity before it computes, and records each attempt in OUT before the work: a
process that dies leaves an attempt without an end, which counts as a death of the shard.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pyarrow as pa

from pseudoris.images.pixels import import_plugins
from pseudoris.pipeline.cluster import living_nodes
from pseudoris.pipeline.identity import check_process
from pseudoris.pipeline.meters import StageMeter, stamp_enqueue_time
from pseudoris.pipeline.shard_tasks import Job, on_this_node, set_aside, stage_fault, this_node
from pseudoris.primitives.errors import (
    BrokenDeviceError,
    ConfigError,
    NoSubprocessError,
    PseudorisError,
    TransientError,
)
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import begin_attempt, end_attempt
from pseudoris.workers.composing.composer import refusal
from pseudoris.workers.composing.posterior import drawn_by_mask
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.stages import POOL_STAGES, STAGE_PROPOSE, STAGES, stages_named

logger = logging.getLogger(__name__)

EXIT_UNUSABLE: Final = 87


class StageActor:
    """Runs blocks through the models of the named stages, which are loaded once.

    The constructor does not raise a ConfigError: Ray would report the death of an actor, with our message inside a page
    of traceback. The first call raises it instead, unchanged. Any other error while models load is taken for a fault of
    this node: Ray Data restarts the actor up to MAX_INIT_DEATHS times.
    """

    def __init__(self, job: Job, pool: str) -> None:
        """Load the models of the stages of `pool`, and check that this process has the run's identity."""
        is_stored = job.config.placement.masks_from is not None
        names = tuple(name for name in POOL_STAGES[pool] if not (is_stored and name == STAGE_PROPOSE))
        self._job = job
        self._pool = pool
        self._stages: FaultTolerantStages | None = None
        self._error: ConfigError | None = None
        self._meter = StageMeter(job.location.root, pool)
        self._mixed: tuple[str, ...] = ()
        is_last = names[-1] == STAGES[-1].name
        # The last stage composes. The first shard with captions shows whether the composer can use them.
        self._gives_notice = is_last and job.config.composing is not None
        # After the last stage, image bytes that are not embedded would only fill the object store, so they are dropped.
        self._drops_bytes = is_last and not job.config.shards.embed_images
        try:
            self._mixed = check_process(job.header.identity, job.config, stages_named(names))
            # Reading used these plug-ins to check the images, so they are needed to decode the images here.
            import_plugins(job.config.images.decoder_plugins)
            with self._meter.loading(), collector_paused():
                self._stages = FaultTolerantStages(names, job.config)
        except ConfigError as error:
            self._error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the block after every stage, one shard per block.

        A shard that is committed or set aside is returned unchanged. One on which a stage raises is set aside.
        """
        if self._stages is None:
            raise self._error or RuntimeError("no stages")
        shard = block_to_shard(block)
        if shard.is_committed or shard.fault is not None:
            return block
        shard = shard.with_mixed(self._mixed)
        measured = self._meter.at_work(block, nodes=shard.nodes, on_node=this_node())
        with measured, attempted(self._job, shard, self._pool) as num_deaths:
            try:
                # The shard is given up after this many deaths, because Ray itself would restart it forever.
                if num_deaths >= self._job.config.placement.max_deaths_per_shard:
                    raise TransientError(
                        f"shard {shard.shard} crashed its process {num_deaths} times on nodes that are alive, and no "
                        "single image was found to be the cause. Find the signal in Ray's logs. If a process was "
                        f"killed for lack of memory, give each actor of placement.{self._pool} more memory: raise "
                        "num_cpus, or use fewer actors. If a GPU failed, check the node. If the log names an image, "
                        "you can remove it from SOURCE: it is then quarantined as missing"
                    )
                shard = self._stages(shard, num_deaths=num_deaths)
            except (BrokenDeviceError, NoSubprocessError):
                # Further work of this process on its device would fail too, or it lacks the memory to test whether an
                # image is at fault. Ray starts another process, which takes the shard again. The attempt stays open and
                # counts as a death.
                logger.exception("This process cannot finish shard %d. It exits, and Ray starts another.", shard.shard)
                logging.shutdown()
                os._exit(EXIT_UNUSABLE)
            except (PseudorisError, OSError) as error:
                logger.warning("Shard %d is set aside.", shard.shard, exc_info=True)
                return shard_to_block(set_aside(stage_fault(shard.shard, error), shard.generation))
        if self._gives_notice and any(map(drawn_by_mask, shard.images)):
            shard, self._gives_notice = replace(shard, notice=refusal(shard.images)), False
        if self._drops_bytes:
            shard = shard.with_images(tuple(replace(image, data=b"") for image in shard.images))
        return stamp_enqueue_time(shard_to_block(on_this_node(shard)))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let no garbage collection run in the block.

    What models import makes a million objects, nearly all of which stay. The passes over them took 1.3 of the 6.7
    seconds of CPU in which the models of `tiny` load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def attempted(job: Job, shard: Shard, pool: str) -> Iterator[int]:
    """Record the attempt around the block; yield how many processes already died with this shard.

    Deaths together with their node or their driver do not count.
    """
    node = this_node()
    attempt, history = begin_attempt(
        job.location, shard.shard, shard.generation, pool=pool, session_nonce=job.session_nonce, node=node
    )
    num_deaths = 0
    if history.begun != history.ended:
        living = [str(known["NodeID"]) for known in living_nodes()]
        num_deaths = history.num_deaths(pool=pool, session_nonce=job.session_nonce, living_nodes=living)
    try:
        yield num_deaths
    finally:
        end_attempt(job.location, attempt)
