"""A run without Ray: what `annotate` does, shard after shard in this process. A finished run costs a second so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pseudoris.files.location import RunLocation
from pseudoris.images.prover import Prover
from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.workers.stages import STAGES
from tests.store.builders import commit_made


def work_off(
    source: str | Path,
    out: str | Path,
    config: RunConfig,
    *,
    limit: int | None = None,
    on_planned: Callable[[], object] = lambda: None,
) -> RunHeader:
    """Plan a run, call `on_planned`, and commit every shard; with stub engines, `stub_engines` must have run."""
    location = RunLocation.open(str(out), config.source.endpoint_url, config.placement.storage)
    location.probe()
    listing = open_source(str(source), config.source, exclude=location.root, limits=config.placement.storage)
    request = RunRequest("annotate", listing.name, measure_identity(config), config, limit=limit)
    header = plan_run(location, request, listing.list).header
    on_planned()
    stages = [stage.build(config) for stage in STAGES]
    with Prover(config.images) as prover:
        for number in range(header.num_shards):
            entries = read_shard_plan(location, header, number)
            shard = read_shard(listing.name, config, entries, prover=prover)
            for stage in stages:
                shard = stage(shard)
            commit_made(location, header, shard, embed_images=False)
    run_gc(location)
    write_manifest(location)
    return header
