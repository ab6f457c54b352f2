"""The Ray Data graph: read tasks, pools of stage actors, commit tasks; one block a shard from end to end."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata

from pipeline.job import Job
from pipeline.resources import num_committers, num_readers
from pipeline.stages import StageActor, block_to_receipt, commit_block, read_block
from pipeline.windows import WINDOWS, WindowRule, WindowTimes
from schemas.config import ComputeConfig
from schemas.placement import PoolConfig
from schemas.run import Receipt
from workers.memory import KEPT_MEMORY
from workers.stages import STAGES

MAX_INIT_DEATHS: Final = 8


def run_shards(
    job: Job, shards: Sequence[int], actors: Mapping[str, int], *, rule: WindowRule = WINDOWS
) -> Generator[Receipt]:
    """Yield the receipt of each of `shards` as its commit lands, in no order but that of the windows.

    Closing the iterator, or an exception in its consumer, ends the execution; what is committed stands.

    Args:
        job: The run.
        shards: Numbers in the plan, not committed yet, in the order in which they should start.
        actors: Planned actors by pool name, from `resources.plan_actors`.
        rule: How many shards go into one execution.
    """
    start, times = 0, None
    while start < len(shards):
        window = shards[start : start + rule.size(len(shards) - start, times)]
        start += len(window)
        times = WindowTimes(time.monotonic())
        with closing(_run_window(job, window, actors)) as receipts:
            for receipt in receipts:
                times.add(time.monotonic())
                yield receipt


def _run_window(job: Job, shards: Sequence[int], actors: Mapping[str, int]) -> Generator[Receipt]:
    dataset = build_dataset(job, shards, actors)
    # Receipts are about a kilobyte: nothing to prefetch, and each is handed on when it lands.
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield block_to_receipt(block)


def build_dataset(job: Job, shards: Sequence[int], actors: Mapping[str, int]) -> Dataset:
    """Return the lazy graph of `run_shards`: a block a shard in, a block of one receipt a shard out."""
    configure_ray_data()
    placement = job.config.placement
    dataset = ray.data.read_datasource(
        ShardDatasource(job, shards),
        # As many blocks as read tasks: else Ray Data would cut blocks to reach its own number.
        override_num_blocks=len(shards),
        concurrency=num_readers(actors, job.config),
        **_task_arguments(placement.read),
    )
    for name in job.config.model_pools():
        dataset = _add_pool(dataset, job, name, num_actors=actors[name])
    committed: Dataset = dataset.map_batches(
        functools.partial(commit_block, job=job),
        batch_size=None,
        batch_format="pyarrow",
        # A bound that Ray Data knows: what tasks cannot use it leaves to the pools.
        compute=TaskPoolStrategy(size=num_committers(actors, job.config)),
        **_task_arguments(placement.commit),
    )
    return committed


class ShardDatasource(Datasource):
    """Planned shards as a Ray Data source: a read task a shard, each of which yields one block."""

    def __init__(self, job: Job, shards: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        # Once into the object store: a plan of 200,000 shards would pickle the header as many times.
        self._job_ref = ray.put(job)
        self._shards = tuple(shards)

    def get_name(self) -> str:
        """Return what Ray's dashboard calls it."""
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: sizes are the plan's business."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return a read task a shard, whatever `parallelism` Ray Data would like."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(_read, self._job_ref, shard), metadata) for shard in self._shards]


def actor_environment(compute: ComputeConfig) -> dict[str, str]:
    """Return the environment variables of a process that holds models; read before its libraries load."""
    threads = str(compute.threads)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    if compute.device == "cuda":
        # Without it cuBLAS may use several streams' workspaces, and sums differ from run to run.
        return {**environment, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**environment, **KEPT_MEMORY}


def actor_runtime(compute: ComputeConfig, executable: str = sys.executable) -> dict[str, Any]:
    """Return the runtime environment of a process that holds models: `actor_environment`, and a shell-safe Python.

    Ray hands the interpreter's path to a shell unquoted: below a folder with a space in its name, workers with an
    environment of their own would never start, and the run would hang.
    """
    runtime: dict[str, Any] = {"env_vars": actor_environment(compute)}
    quoted = shlex.quote(executable)
    # Left alone otherwise: nodes of a cluster may keep their Python elsewhere.
    return runtime if quoted == executable else {**runtime, "py_executable": quoted}


def _read(job_ref: ray.ObjectRef[Job], shard: int) -> list[pa.Table]:
    return [read_block(ray.get(job_ref), shard)]


def _add_pool(dataset: Dataset, job: Job, name: str, *, num_actors: int) -> Dataset:
    pool = job.config.model_pools()[name]
    # `map_batches` itself refuses GPUs without a batch size, and any number would merge or cut shards.
    return dataset.map_batches_internal(
        StageActor,
        fn_constructor_args=(_stages_of(name), job, name),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.min_actors,
            # On a cluster that may grow the plan is where a pool starts: Ray Data adds actors while shards wait and
            # resources are free, and keeps back what reading and committing need.
            max_size=pool.max_actors if job.may_grow else num_actors,
            initial_size=num_actors,
            max_tasks_in_flight_per_actor=job.config.placement.max_tasks_in_flight_per_actor,
        ),
        num_gpus=pool.num_gpus,
        # Its own environment also keeps the read from being fused into the first pool, where the
        # models would wait for the disk: Ray Data fuses operators of equal arguments only.
        runtime_env=actor_runtime(job.config.compute),
        **_task_arguments(pool),
    )


def _task_arguments(pool: PoolConfig) -> dict[str, Any]:
    return {"num_cpus": pool.num_cpus, "resources": dict(pool.resources)}


def _stages_of(pool: str) -> tuple[str, ...]:
    names = tuple(stage.name for stage in STAGES)
    return (pool,) if pool in names else names


def configure_ray_data() -> None:
    """Set what a run needs of Ray Data, for this process."""
    context = DataContext.get_current()
    # One shard is one block, never cut: with the default a block of 400 MB comes out in three.
    context.target_max_block_size = None
    # A node whose GPU is broken must not end the run; one that loads nowhere does, after so many in a row.
    context.max_consecutive_actor_init_deaths = MAX_INIT_DEATHS
    # A shard that waits for GPU nodes to come back makes no progress and is no failure.
    context.execution_no_progress_timeout_s = -1
    # Wrapped, an exception loses on the way to the driver what it was.
    context.raise_original_map_exception = True
    # Our own progress follows receipts, which are what counts.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
