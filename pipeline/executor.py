"""Executes shards on Ray Data: a graph of read tasks, pools of stage actors and commit tasks.

Called by `annotation` and `sample_estimate`: they hand in shards and get outcomes. One block is one shard from end to
end: Ray Data must never split or merge blocks, because a commit refuses a block that is not exactly its shard. Errors
of Ray leave as ours.
"""

from __future__ import annotations

import functools
import gc
import logging
import shlex
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from pseudoris.pipeline.cluster import original_error
from pseudoris.pipeline.interrupts import Interrupts
from pseudoris.pipeline.resources import busy_actors, num_committers, num_readers
from pseudoris.pipeline.shard_tasks import Job, block_to_outcome, commit_block, read_block
from pseudoris.pipeline.stage_actor import StageActor
from pseudoris.schemas.config import ComputeConfig, TaskPoolConfig
from pseudoris.store.runs.pending_work import Notice, OnEvent, PendingWork, ignore
from pseudoris.store.sessions.session import Executor, Outcome
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT

logger = logging.getLogger(__name__)

MAX_INIT_DEATHS: Final = 8
# The most shards in a window, which is one execution of Ray Data. It keeps about 3 MB per 1,000 shards on the driver
# until it ends, and 13 MB in GCS and raylet (docs/records/scale.md). Each window starts its pools again.
MAX_SHARDS: Final = 100_000


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


def actor_environment(compute: ComputeConfig) -> dict[str, str]:
    """Return the environment variables of a process that holds models; set before its libraries load."""
    threads = str(compute.threads)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    if compute.device == "cuda":
        # Without this variable cuBLAS may use workspaces of several streams, and sums would differ between runs.
        return {**environment, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**environment, **MEMORY_ENVIRONMENT}


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


def window_size(num_pending: int, max_shards: int = MAX_SHARDS) -> int:
    """Return how many of `num_pending` shards the next window has: all are equal, and as few as may be."""
    return -(-num_pending // -(-num_pending // max_shards))


def ray_executor(
    job: Job,
    actors: Mapping[str, int],
    interrupts: Interrupts,
    on_event: OnEvent = ignore,
    *,
    max_shards: int = MAX_SHARDS,
) -> Executor:
    """Return an executor that computes and commits shards of `job` on Ray. A requested stop ends it between commits."""

    def execute(pending: PendingWork) -> Generator[Outcome]:
        with closing(run_shards(job, pending.shards, actors, on_event, max_shards=max_shards)) as outcomes:
            for outcome in outcomes:
                yield outcome
                interrupts.check()

    return execute


def run_shards(
    job: Job,
    shards: Sequence[int],
    actors: Mapping[str, int],
    on_event: OnEvent = ignore,
    *,
    max_shards: int = MAX_SHARDS,
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
        size = window_size(len(shards), max_shards) if shards else 1
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
