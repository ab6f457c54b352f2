"""A run without Ray, in a process of its own: the same reads, stages and commits, one shard after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.graph import actor_environment
from pipeline.identity import measure_identity
from schemas.config import RunConfig
from store.commit import commit_shard
from store.location import RunLocation
from store.plan import read_shard_plan
from store.planning import plan_run
from store.sources import open_source
from store.sources.shards import read_shard
from workers.images.proving import kept_prover
from workers.stages import STAGES


def run_bare(source: Path, out: Path, config: RunConfig) -> tuple[float, list[float]]:
    """Run `source` into `out` in a child process with an actor's environment; return as `work_off` does."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_run", str(source), str(out), config.model_dump_json()],
        env={**os.environ, **actor_environment(config.compute)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    started, commits = json.loads(done.stdout.splitlines()[-1])
    return started, commits


def work_off(source: str, out: str, config: RunConfig) -> tuple[float, list[float]]:
    """Plan, load the models, work every shard off; return when that began and when each commit stood, by one clock."""
    started = time.perf_counter()
    location = RunLocation.open(out)
    listing = open_source(source, config.source, exclude=location.root)
    header = plan_run(location, listing.list(), source=listing.name, identity=measure_identity(config), config=config)
    stages = [stage.build(config) for stage in STAGES]
    commits = []
    for number in range(header.num_shards):
        entries = read_shard_plan(location, header, number)
        with kept_prover(config.images) as prover:
            shard = read_shard(listing.name, config, entries, prover=prover)
        for stage in stages:
            shard = stage(shard)
        planned = [entry.image_id for entry in entries]
        commit_shard(location, shard, planned_ids=planned, embed_images=config.shards.embed_images)
        commits.append(time.perf_counter())
    return started, commits


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.stdout.write(json.dumps(work_off(given[0], given[1], RunConfig.model_validate_json(given[2]))) + "\n")
