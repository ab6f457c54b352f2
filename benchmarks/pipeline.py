"""What the pipeline adds to its stages: a whole run on Ray against the same work bare, in one process.

    python -m benchmarks.pipeline [--preset tiny] [--images 64] [--shard-images 16] [--actors 1] [--json F]

Both sides read and prove, take every shard through the three stages and commit it; with one actor both have the same
threads and the same environment. Each is timed from its first commit to its last, so over all shards but one: what
lies before is start-up (Ray, processes, models, the first shard), and is given in the note. A run of no shards would
not do for it: actors start with the first. Images come in two halves, run in the order Ray, bare, bare, Ray.
The two sides must have written the same bytes, else there is no figure. 512 images take half an hour on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare_run import run_bare
from benchmarks.measure import Row, peak_rss_bytes, report
from pipeline.running import annotate
from pipeline.summary import Committed, RunEvent
from schemas.config import RunConfig
from schemas.config_loading import load_config
from store.location import RunLocation
from store.manifest import cached_receipts
from synthworld.scenes import Split, make_scene
from synthworld.shards import scene_image


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--shard-images", type=int, default=16)
    parser.add_argument("--actors", type=int, nargs="+", default=[1])
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
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
