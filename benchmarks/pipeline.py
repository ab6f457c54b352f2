"""Measures what the pipeline adds to its stages: a run on Ray against the same work in one process.

    python -m benchmarks.pipeline [--preset tiny] [--images 64] [--shard-images 16] [--actors 1 …] [--set KEY=VALUE …]
    [--bare SOURCE OUT CONFIG] [--json FILE]

Both sides read and prove, take every shard through the three stages and commit it; with one actor both have the same
threads and the same environment. The bare side is a process of its own, `--bare`, and does one shard after another.
Each is timed from its first commit to its last, so over all shards but one: what lies before is start-up (Ray,
processes, models, the first shard), and is given in the note. A run of no shards would not do for it: actors start with
the first. Images come in two halves, run in the order Ray, bare, bare, Ray. The two sides must have written the same
bytes, else there is no figure. 512 images take half an hour on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurement import Row, options, peak_rss_bytes, report
from pseudoris.images.prover import shared_prover
from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.executor import actor_environment
from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.pending_work import Committed, RunEvent
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.stages import STAGES
from recipes.scene_shards import scene_image


@dataclass(frozen=True, slots=True)
class Timed:
    """One run: seconds before its first commit, and from there to its last."""

    start_s: float
    work_s: float

    @classmethod
    def of(cls, started: float, commits: Sequence[float]) -> Timed:
        """Return the two from clock readings, at least two commits; raises ValueError for fewer."""
        if len(commits) < 2:
            raise ValueError(f"{len(commits)} shards: it takes two to time one; raise --images or lower --shard-images")
        return cls(commits[0] - started, commits[-1] - commits[0])


def measure(config: RunConfig, *, num_images: int, folder: Path) -> Row:
    """Return the row of `num_images` scenes; ValueError where the two sides differ in a byte."""
    sources = [write_scenes(folder / f"images-{half}", half, num_images // 2) for half in range(2)]
    on_ray: dict[int, Timed] = {}
    bare: dict[int, Timed] = {}
    for half, side in ((0, on_ray), (0, bare), (1, bare), (1, on_ray)):
        out = folder / f"{'ray' if side is on_ray else 'bare'}-{half}"
        run = run_on_ray if side is on_ray else run_bare
        started, commits = run(sources[half], out, config)
        side[half] = Timed.of(started, commits)
    for half in range(2):
        check_equal(folder / f"ray-{half}", folder / f"bare-{half}")
    ours_s, bare_s = (sum(timed.work_s for timed in side.values()) for side in (on_ray, bare))
    starts = [sum(timed.start_s for timed in side.values()) / 2 for side in (on_ray, bare)]
    case = f"pipeline, {config.preset}, {num_images} images, {config.placement.fused.max_actors} actor(s)"
    note = (
        f"Ray takes {ours_s / bare_s:.3f} of the bare stages' time, same bytes; before the first commit "
        f"{starts[0]:.1f} s against {starts[1]:.1f} s"
    )
    return Row(case, bare_s, ours_s, peak_rss_bytes(), note)


def run_on_ray(source: Path, out: Path, config: RunConfig) -> tuple[float, list[float]]:
    """Run `annotate`; return when it began, and when each commit was seen."""
    commits: list[float] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, Committed):
            commits.append(time.perf_counter())

    started = time.perf_counter()
    annotate(str(source), str(out), config, on_event=on_event)
    return started, commits


def run_bare(source: Path, out: Path, config: RunConfig) -> tuple[float, list[float]]:
    """Run `source` into `out` in a child process with an actor's environment; return as `work_off` does."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pipeline", "--bare", str(source), str(out), config.model_dump_json()],
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
    request = RunRequest("annotate", listing.name, measure_identity(config), config)
    header = plan_run(location, listing.list(), request)
    stages = [stage.build(config) for stage in STAGES]
    commits = []
    for number in range(header.num_shards):
        entries = read_shard_plan(location, header, number)
        with shared_prover(config.images) as prover:
            shard = read_shard(listing.name, config, entries, prover=prover)
        for stage in stages:
            shard = stage(shard)
        planned = [entry.image_id for entry in entries]
        provenance = Provenance(header_sha256=header.sha256)
        embed_images = config.shards.embed_images
        commit_shard(location, shard, planned_ids=planned, embed_images=embed_images, provenance=provenance)
        commits.append(time.perf_counter())
    return started, commits


def write_scenes(folder: Path, half: int, count: int) -> Path:
    """Write a half of the scenes as PNG files, and return their folder."""
    folder.mkdir(parents=True)
    for position in range(half * count, (half + 1) * count):
        scene = scene_image(make_scene(Split.DEMO, position))
        (folder / scene.key).write_bytes(scene.data)
    return folder


def check_equal(one: Path, other: Path) -> None:
    """Accept two runs whose receipts name the same parts; ValueError names the first shard where they do not."""
    digests = []
    for out in (one, other):
        receipts = sorted(cached_receipts(RunLocation.open(str(out))), key=lambda receipt: receipt.shard)
        digests.append([{name: part.sha256 for name, part in receipt.parts.items()} for receipt in receipts])
    differing = [shard for shard, (ours, theirs) in enumerate(zip(*digests, strict=True)) if ours != theirs]
    if differing:
        raise ValueError(f"shard {differing[0]} has other bytes on Ray than bare")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    if given.bare:
        source, out, config_json = given.bare
        sys.stdout.write(json.dumps(work_off(source, out, RunConfig.model_validate_json(config_json))) + "\n")
        return
    rows = []
    for actors in given.actors:
        assignments = [
            f"shards.max_images={given.shard_images}",
            f"placement.fused.max_actors={actors}",
            "placement.address=local",
            *given.assignments,
        ]
        with tempfile.TemporaryDirectory() as folder:
            config = load_config(given.preset, assignments=assignments)
            rows.append(measure(config, num_images=given.images, folder=Path(folder)))
    report("pipeline: the stages bare in one process against a run on Ray", rows, given.json)


if __name__ == "__main__":
    main()
