"""The process that `scale` and `memory` watch: a planned run with stand-ins, or bare Ray Data over as many blocks.

    python -m evidence.benchmarks.scale_driver run WORK_S SOURCE OUT <RunConfig as JSON>
    python -m evidence.benchmarks.scale_driver bare WORK_S NUM_BLOCKS WAIT_S

It stops WORK_S after the first commit (or block) at the latest. It prints the times of its phases by
`time.monotonic`, as one line of JSON, the last of its output. `first_result` takes `Blocks` for its bare side.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.cluster import connected
from pseudoris.pipeline.executor import actor_runtime, configure_ray_data
from pseudoris.pipeline.identity import identity_on_cluster
from pseudoris.schemas.config import ComputeConfig, PoolConfig, RunConfig
from pseudoris.store.runs.pending_work import Committed, Planned, RunEvent
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source


def run(work_s: float, source: str, out: str, config: RunConfig) -> dict[str, Any]:
    """Plan and annotate, as `annotate` does both; the plan is made first so that its time stands alone."""
    phases: dict[str, Any] = {}
    commits: list[float] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, Planned):
            phases["graph_s"] = time.monotonic()
        elif isinstance(event, Committed):
            commits.append(time.monotonic())
            if commits[-1] - commits[0] > work_s:
                # As a user would end it: what is committed stands.
                raise KeyboardInterrupt

    with connected("local"):
        identity, config, _ = identity_on_cluster(config)
        phases["start_s"] = time.monotonic()
        location = RunLocation.open(out)
        listing = open_source(source, config.source, exclude=location.root)
        request = RunRequest("annotate", listing.name, identity, config)
        header = plan_run(location, request, listing.list).header
        phases["planned_s"] = time.monotonic()
        summary = annotate(source, out, config, on_event=on_event)
        phases["end_s"] = time.monotonic()
    if not summary.is_complete and not summary.interrupted:
        raise RuntimeError(f"{summary.totals.shards} of {header.num_shards} shards were committed")
    return {**phases, "commits_s": commits, "num_images": header.num_images, "num_shards": header.num_shards}


def bare(work_s: float, num_blocks: int, wait_s: float) -> dict[str, Any]:
    """Take as many blocks of one row through two pools of one actor each, the first of which waits `wait_s` a block."""
    pool = PoolConfig(num_cpus=0.5)
    blocks: list[float] = []
    with connected("local"):
        configure_ray_data()
        start_s = time.monotonic()
        dataset = ray.data.read_datasource(Blocks(num_blocks), override_num_blocks=num_blocks, num_cpus=0.25)
        for seconds in (wait_s, 0.0):
            dataset = dataset.map_batches_internal(
                _Passes,
                fn_constructor_args=(seconds,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=1),
                num_cpus=pool.num_cpus,
                runtime_env=actor_runtime(ComputeConfig(device="cpu")),
            )
        for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            blocks.append(time.monotonic())
            if blocks[-1] - blocks[0] > work_s:
                break
        end_s = time.monotonic()
    return {"start_s": start_s, "graph_s": start_s, "end_s": end_s, "commits_s": blocks, "num_shards": num_blocks}


class Blocks(Datasource):
    """A read task a block, as `pseudoris.pipeline.executor.ShardDatasource` has a read task a shard."""

    def __init__(self, num_blocks: int) -> None:
        """Yield as many blocks of one row."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's own
        self._num_blocks = num_blocks

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return a read task a block."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(_read, number), metadata) for number in range(self._num_blocks)]


def _read(number: int) -> list[pa.Table]:
    return [pa.table({"number": [number]})]


class _Passes:
    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def __call__(self, block: pa.Table) -> pa.Table:
        time.sleep(self._wait_s)
        return block


def main() -> None:
    """Do what the arguments say and print the answer."""
    kind, work_s, *given = sys.argv[1:]
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "run": lambda: run(float(work_s), given[0], given[1], RunConfig.model_validate_json(given[2])),
        "bare": lambda: bare(float(work_s), int(given[0]), float(given[1])),
    }
    sys.stdout.write(json.dumps(sides[kind]()) + "\n")


if __name__ == "__main__":
    main()
