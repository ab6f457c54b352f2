"""Executes shards on Ray Data: a graph of read tasks, pools of stage actors and commit tasks.

Called by `annotation` and `sample_estimate`: they hand in shards and get outcomes. One block is one shard from end to
end: Ray Data must never split or merge blocks, because a commit refuses a block that is not exactly its shard. Errors
of Ray leave as ours.

An actor checks that its process has the run's identity before it computes, and records each attempt in OUT before the
work: a process that dies leaves an attempt without an end, which counts as a death of the shard.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from pseudoris.images.pixels import import_plugins
from pseudoris.pipeline.cluster import living_nodes, original_error
from pseudoris.pipeline.identity import check_process
from pseudoris.pipeline.interrupts import Interrupts
from pseudoris.pipeline.meters import StageMeter, stamp_enqueue_time
from pseudoris.pipeline.resources import busy_actors, num_committers, num_readers
from pseudoris.pipeline.shard_tasks import (
    Job,
    block_to_outcome,
    commit_block,
    on_this_node,
    read_block,
    set_aside,
    stage_fault,
    this_node,
)
from pseudoris.primitives.errors import (
    BrokenDeviceError,
    ConfigError,
    NoSubprocessError,
    PseudorisError,
    TransientError,
)
from pseudoris.schemas.config import ComputeConfig, TaskPoolConfig
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import begin_attempt, end_attempt
from pseudoris.store.runs.pending_work import Notice, OnEvent, PendingWork, ignore
from pseudoris.store.sessions.session import Executor, Outcome
from pseudoris.workers.composing.composer import refusal
from pseudoris.workers.composing.posterior import drawn_by_mask
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.process_memory import actor_environment
from pseudoris.workers.stages import POOL_STAGES, STAGE_PROPOSE, STAGES, stages_named

logger = logging.getLogger(__name__)

EXIT_UNUSABLE: Final = 87
MAX_INIT_DEATHS: Final = 8
# The most shards in a window, which is one execution of Ray Data. It keeps about 3 MB per 1,000 shards on the driver
# until it ends, and 13 MB in GCS and raylet (docs/records/scale.md). Each window starts its pools again.
MAX_SHARDS: Final = 100_000


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
            with collector_paused():  # On a CPU this loads torch.
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


def build_dataset(job: Job, shards: Sequence[int], actors: Mapping[str, int]) -> Dataset:
    """Return the lazy graph: one block per shard in, one block with one receipt per shard out."""
    configure_ray_data()
    placement = job.config.placement
    actors = busy_actors(actors, len(shards))
    dataset = ray.data.read_datasource(
        ShardDatasource(job, shards),
        override_num_blocks=len(shards),
        concurrency=num_readers(placement),
        **_task_arguments(placement.read),
    )
    for name, pool in job.config.model_pools().items():
        # `map_batches` would require a batch size for GPUs, and any batch size would merge or split shards.
        dataset = dataset.map_batches_internal(
            StageActor,
            fn_constructor_args=(job, name),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1,
                # On a cluster that may grow, the planned number is where a pool starts. Ray Data adds actors while
                # shards wait and resources are free, and reserves what reading and committing need.
                max_size=pool.max_actors if job.may_grow else actors[name],
                initial_size=actors[name],
                max_tasks_in_flight_per_actor=placement.max_tasks_in_flight_per_actor,
            ),
            num_gpus=pool.num_gpus,
            # The separate environment also prevents fusion of the read into the first pool, where the models would wait
            # for the disk: Ray Data only fuses operators with equal arguments.
            runtime_env=actor_runtime(job.config.compute),
            **_task_arguments(pool),
        )
    committed: Dataset = dataset.map_batches(
        functools.partial(commit_block, job=job),
        batch_size=None,
        batch_format="pyarrow",
        # With this bound Ray Data knows how many commit tasks run, and leaves the other resources to the pools.
        compute=TaskPoolStrategy(size=num_committers(placement)),
        **_task_arguments(placement.commit),
    )
    return committed


class ShardDatasource(Datasource):
    """Planned shards as a Ray Data source: one read task per shard, which yields one block."""

    def __init__(self, job: Job, shards: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        # The job goes into Ray's object store once. Otherwise each of up to 200,000 read tasks would pickle it.
        self._job_ref = ray.put(job)
        self._shards = tuple(shards)

    def get_name(self) -> str:
        """Return its name in Ray's dashboard."""
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: the plan bounds the sizes."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one read task per shard; the `parallelism` that Ray Data asks for is ignored."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(read_task, self._job_ref, shard), metadata) for shard in self._shards]


def actor_runtime(compute: ComputeConfig, executable: str = sys.executable) -> dict[str, Any]:
    """Return the runtime environment of a process that holds models: `actor_environment`, and a shell-safe Python.

    Ray hands the interpreter's path to a shell unquoted: below a folder with a space in its name, workers with an
    environment of their own would never start, and the run would hang.
    """
    runtime: dict[str, Any] = {"env_vars": actor_environment(compute)}
    quoted = shlex.quote(executable)
    # A path that needs no shell quotes is not passed on, because other nodes may have their Python elsewhere.
    return runtime if quoted == executable else {**runtime, "py_executable": quoted}


def read_task(job_ref: ray.ObjectRef[Job], shard: int) -> list[pa.Table]:
    """Read one planned shard, as a task of Ray Data."""
    return [read_block(ray.get(job_ref), shard)]


def _task_arguments(pool: TaskPoolConfig) -> dict[str, Any]:
    return {"num_cpus": pool.num_cpus, "resources": dict(pool.resources)}


def configure_ray_data() -> None:
    """Configure Ray Data for a run, in this process."""
    context = DataContext.get_current()
    # By default Ray Data splits a block of 400 MB in three. A shard must stay one block.
    context.target_max_block_size = None
    # A node with a broken GPU must not end the run. An actor that cannot load on any node ends it, after this many
    # deaths in a row.
    context.max_consecutive_actor_init_deaths = MAX_INIT_DEATHS
    # There is no limit on the time without progress, because a shard that waits for GPU nodes has not failed.
    context.execution_no_progress_timeout_s = -1
    # Without this, Ray Data would wrap the exception, which would lose its type on the way to the driver.
    context.raise_original_map_exception = True
    # Ray's progress bars are off: our own progress bar counts receipts.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # By default each task runs a thread that measures its memory. This is off, because nothing here reads the result.
    context.memory_usage_poll_interval_s = None


def window_size(num_pending: int) -> int:
    """Return how many of `num_pending` shards the next window has: all are equal, and as few as may be."""
    return -(-num_pending // -(-num_pending // MAX_SHARDS))


def ray_executor(job: Job, actors: Mapping[str, int], interrupts: Interrupts, on_event: OnEvent = ignore) -> Executor:
    """Return an executor that computes and commits shards of `job` on Ray. A requested stop ends it between commits."""

    def execute(pending: PendingWork) -> Generator[Outcome]:
        with closing(run_shards(job, pending.shards, actors, on_event)) as outcomes:
            for outcome in outcomes:
                yield outcome
                interrupts.check()

    return execute


def run_shards(
    job: Job, shards: Sequence[int], actors: Mapping[str, int], on_event: OnEvent = ignore
) -> Generator[Outcome]:
    """Yield the receipt of each of `shards` as its commit lands, or why it is set aside. They land in any order.

    `shards` begin in their order, on the `actors` by pool name that `resources.plan_actors` planned. Closing the
    iterator, or an exception in its consumer, ends the execution; committed shards are kept. `on_event` gets the first
    notice of a shard alone: other actors say the same of their first shards.

    Raises:
        PseudorisError: A worker raised it; `TransientError` also if Ray itself failed.
    """
    ours: BaseException | None = None
    is_told = False
    try:
        size = window_size(len(shards)) if shards else 1
        for start in range(0, len(shards), size):
            with closing(_run_window(job, shards[start : start + size], actors)) as blocks:
                for block in blocks:
                    notice = block["notice"][0].as_py()
                    if notice is not None and not is_told:
                        is_told = True
                        on_event(Notice(notice))
                    yield block_to_outcome(block)
    except RayError as error:
        logger.debug("Ray raised:", exc_info=True)
        ours = original_error(error)
    if ours is not None:
        # The traceback's frames, and cycles in Ray Data, would keep the actors alive and their CPUs in use. So they are
        # dropped, and the error is raised outside of the handler. The error of a worker is in the text.
        ours.__cause__ = ours.__context__ = None
        gc.collect()
        raise ours.with_traceback(None)


def _run_window(job: Job, shards: Sequence[int], actors: Mapping[str, int]) -> Generator[pa.Table]:
    dataset = build_dataset(job, shards, actors)
    # `iter_batches` would send statistics to a Ray actor every five seconds, and they grow with the number of shards.
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield ray.get(entry.ref)
