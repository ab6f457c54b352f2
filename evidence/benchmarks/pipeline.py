"""Measures what the pipeline adds to its stages: a run on Ray against the same work in one process.

    python -m evidence.benchmarks.pipeline [--preset tiny] [--images 64] [--shard-images 16] [--actors 1 …]
    [--set KEY=VALUE …] [--megapixels NUMBER …] [--before FOLDER] [--side KIND SOURCE OUT CONFIG] [--json FILE]

Both sides read and prove, take every shard through the three stages and commit it; with one actor both have the same
threads and the same environment. The bare side is a process of its own, `--bare`, and does one shard after another.
Each is timed from its first commit to its last, so over all shards but one: what lies before is start-up (Ray,
processes, models, the first shard), and is given in the note. A run of no shards would not do for it: actors start with
the first. Sides run in the order Ray, bare, bare, Ray. They must have written the same bytes, else there is no figure.
256 images take half an hour on two cores.

With `--megapixels` instead: JPEGs of such sizes through an actor alone, and through a run of one actor, whose stages
only take the pixels, as on a GPU. The numbers of images are those of 12 megapixels; of smaller ones there are as many
more. With `--before`, the checkout of an earlier version is the other side. Images a second, before and now.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from evidence.benchmarks.measurement import Row, options, peak_rss_bytes, report
from evidence.recipes.scene_shards import scene_image
from pseudoris.files.location import RunLocation
from pseudoris.images.prover import shared_prover
from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.pending_work import Committed, RunEvent
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.process_memory import actor_environment
from pseudoris.workers.stages import POOL_STAGES, STAGES

_ROOT: Final = Path(__file__).resolve().parents[2]
_ENGINES: Final = [
    f"{stage.section}.{each}" for stage in STAGES for each in ("engine=timed", "options={decodes: true}")
]
# When it began, when each shard was done, and what else is told.
Answer = tuple[Any, ...]


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
    source = write_scenes(folder / "images", num_images)
    runs = in_turn(folder, *(lambda out, run=run: run(source, out, config) for run in (run_on_ray, run_bare)))
    check_equal(folder / "0", folder / "1")
    on_ray, bare = ([Timed.of(*answer) for answer in side] for side in runs)
    ours_s, bare_s = (sum(timed.work_s for timed in side) / 2 for side in (on_ray, bare))
    starts = [sum(timed.start_s for timed in side) / 2 for side in (on_ray, bare)]
    case = f"pipeline, {config.preset}, {num_images} images, {config.placement.fused.max_actors} actor(s)"
    note = (
        f"Ray takes {ours_s / bare_s:.3f} of the bare stages' time, same bytes; before the first commit "
        f"{starts[0]:.1f} s against {starts[1]:.1f} s"
    )
    return Row(case, bare_s, ours_s, peak_rss_bytes(), note)


def in_turn(folder: Path, *sides: Callable[[Path], Answer]) -> list[list[Answer]]:
    """Run each side into a folder of its own, then again in the other order; return the answers of each."""
    answers: list[list[Answer]] = [[] for _ in sides]
    for turn, side in enumerate([*range(len(sides)), *reversed(range(len(sides)))]):
        answers[side].append(sides[side](folder / str(turn)))
    return answers


def measure_photos(
    megapixels: float, num_shards: int, shard_images: int, before: Path | None, folder: Path
) -> Iterator[Row]:
    """Yield the rows of an actor alone and of a run."""
    a_shard = max(1, round(shard_images * 12 / megapixels))
    source = write_photos(folder / "photos", megapixels, a_shard * num_shards)
    limits = [f"shards.max_images={a_shard}", "shards.max_bytes=268435456"]
    settings = [*_ENGINES, *limits, "placement.fused.max_actors=1", "placement.address=local"]
    roots = [_ROOT] if before is None else [before, _ROOT]
    for kind, case in (("actor", "an actor alone"), ("ray", "a run")):
        run = partial(run_side, kind, source=source, config=json.dumps(settings))
        sides = in_turn(folder / kind, *(partial(run, root) for root in roots))
        # A run's first shard waits for models.
        num, begin = (num_shards, 0) if kind == "actor" else (num_shards - 1, 1)
        image_s = [sum(one[1][-1] - [one[0], *one[1]][begin] for one in side) / 2 / num / a_shard for side in sides]
        told = ", ".join(f"{1 / each:.1f} images/s" for each in image_s)
        told += "".join(f"; {one[2]:g} decodes an image, {one[3]:.4f} CPU s" for (one, _) in sides if kind == "actor")
        yield Row(f"{case}, {megapixels:g} MP", image_s[0] if before else None, image_s[-1], peak_rss_bytes(), told)


def write_photos(folder: Path, megapixels: float, count: int) -> Path:
    """Write a JPEG that has as many bytes as a photograph `count` times, and return their folder."""
    folder.mkdir(parents=True)
    height = round((megapixels * 0.75e6) ** 0.5)
    pixels = np.random.default_rng(0).normal(128, 5, (height, height * 4 // 3, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.jpg", quality=90)
    for number in range(1, count):
        (folder / f"{number}.jpg").write_bytes((folder / "0.jpg").read_bytes())
    return folder


def through_actor(source: str, config: RunConfig) -> Answer:
    """Pass proven images through an actor's stages; tell the decodes of an image, the proof included, and CPU time."""
    images, size = [], config.shards.max_images
    with shared_prover(config.images) as prover:
        for position, path in enumerate(Path(source).iterdir()):
            height, width = prover.prove(data := path.read_bytes()).size
            images.append(ShardImage(position, image_id(path.name), path.name, data, height=height, width=width))
    stages = FaultTolerantStages(POOL_STAGES["fused"], config)
    started, ends, began_s = time.perf_counter(), [], time.process_time()
    for first in range(0, len(images), size):
        stages(Shard(0, 0, tuple(images[first : first + size])))
        ends.append(time.perf_counter())
    num_decodes = prover.num_proofs + len(importlib.import_module("scale_engines").DECODED)
    return started, ends, num_decodes / len(images), (time.process_time() - began_s) / len(images)


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
    environment = actor_environment(config.compute)
    started, commits = run_side(
        "bare", _ROOT, out, source=source, config=config.model_dump_json(), environment=environment
    )
    return started, commits


def run_side(
    kind: str, root: Path, out: Path, *, source: Path, config: str, environment: Mapping[str, str] | None = None
) -> Answer:
    """Return what this module answers as `--side`, in a process that takes all else from the checkout `root`."""
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "--side", kind, str(source), str(out), config],
        env={
            **os.environ,
            **(environment or {}),
            "PYTHONPATH": f"{root}:{_ROOT / 'evidence' / 'benchmarks' / 'plugins'}",
        },
        cwd=root,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def work_off(source: str, out: str, config: RunConfig) -> tuple[float, list[float]]:
    """Plan, load the models, work every shard off; return when that began and when each commit stood, by one clock."""
    # Here, because an earlier version lacks it.
    from pseudoris.store.runs.planned_run import RunRequest, plan_run

    started = time.perf_counter()
    location = RunLocation.open(out)
    listing = open_source(source, config.source, exclude=location.root)
    request = RunRequest("annotate", listing.name, measure_identity(config), config)
    header = plan_run(location, request, listing.list).header
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


def write_scenes(folder: Path, count: int) -> Path:
    """Write scenes as PNG files, and return their folder."""
    folder.mkdir(parents=True)
    for position in range(count):
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
    if given.side:
        kind, source, out, settings = given.side
        if kind == "bare":
            answer: Answer = work_off(source, out, RunConfig.model_validate_json(settings))
        else:
            config = load_config("tiny", assignments=json.loads(settings))
            is_alone = kind == "actor"
            answer = through_actor(source, config) if is_alone else run_on_ray(Path(source), Path(out), config)
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    rows: list[Row] = []
    for megapixels in map(float, given.megapixels):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_photos(
                megapixels, given.images // given.shard_images, given.shard_images, given.before, Path(folder)
            )
    if rows:
        report("pipeline: stages that only take the pixels, before and now", rows, given.json)
        return
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
