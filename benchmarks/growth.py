"""Measures how time and memory of the stages grow with masks, image size, shard size, and the images of a run.

    python -m benchmarks.growth [--preset tiny] [--part PART …] [--repeats 3] [--images 1000] [--stub-images 100000]
    [--set KEY=VALUE …] [--plot FILE] [--json FILE]

What grows is doubled from point to point; each stage has a process of its own at each point. `exponent` is the slope of
a straight line through the logarithms of the larger half of the points: 1 is linear. Seconds are the CPU's: a stage's
of one thread with an actor's memory settings, a run's of its driver, Ray's head and all workers that live. Inputs are
scenes of the synthetic world: side by side in one picture for many masks, enlarged for larger images. A curve replaces
its own row of the JSON, and the plot has all rows: parts may be measured one by one.
A part is one of masks, image size, shard size, run (of `--images`) and stub run (of `--stub-images`, whose stages wait,
whatever is set).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from benchmarks.measurement import cpu_seconds, options, peak_rss_bytes, reset_peak, write_json
from benchmarks.memory import watch_scenes, watch_stub_run
from benchmarks.process_watch import Sample, Watched
from experiments.quality.svg_chart import Line, axis_of, line_chart, stack
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT
from pseudoris.workers.stages import STAGES, StageKind
from recipes.child_environment import child_environment
from recipes.scene_shards import SceneImage, encode_png, scene_image, scene_shard

Part = Literal["masks", "image size", "shard size"]
# By part: what is counted, and the points. SAM's 32 × 32 grid leaves up to 120 masks of an image.
POINTS: Final[dict[Part, tuple[int, ...]]] = {
    "masks": (1, 2, 4, 8, 15, 30, 60, 120),
    "image size": (192, 384, 768, 1536, 3072),
    "shard size": (1, 2, 4, 8, 16, 32, 64),
}
_UNITS: Final[dict[Part, str]] = {"masks": "masks", "image size": "pixels a side", "shard size": "images"}
# Scenes side by side in a picture of 1,152 pixels a side: 36 hold more than 120 objects.
_SCENES_A_SIDE: Final = 6
_RUN_POINTS: Final = 12


@dataclass(frozen=True, slots=True)
class Curve:
    """How one stage, or a run, grew.

    Attributes:
        case: What grew, of what.
        unit: What `sizes` counts.
        sizes: Ascending.
        seconds: Of the CPU, at each size; of a stage the median of several.
        bytes: At each size: by how much the stage raised the resident size of its process, warmed up, at its highest;
            of a run the highest private bytes of driver and workers until then.
        settings: Over the preset's.
    """

    case: str
    unit: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[int, ...]
    settings: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Curve:
        """Return the curve of a JSON row."""
        columns = {name: tuple(row[name]) for name in ("sizes", "seconds", "bytes")}
        return cls(row["case"], row["unit"], **columns, settings=tuple(row.get("settings", ())))

    @property
    def name(self) -> tuple[str, str, tuple[str, ...]]:
        """What is measured, and how."""
        return self.case, self.unit, tuple(sorted(self.settings))

    def row(self) -> dict[str, Any]:
        """Return the JSON row, with both exponents."""
        return {
            **asdict(self),
            "exponent_s": exponent(self.sizes, self.seconds),
            "exponent_bytes": self.exponent_of_bytes(),
        }

    def exponent_of_bytes(self) -> float | None:
        """Return the exponent of memory; None of next to nothing."""
        # A stage that takes next to nothing grows by the allocator's steps alone.
        return exponent(self.sizes, self.bytes) if min(self.bytes[len(self.bytes) // 2 :]) > 2**20 else None


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log(value) over log(size) of the larger half of the points."""
    half = len(sizes) // 2
    logs = [[math.log(each) for each in numbers[half:]] for numbers in (sizes, values)]
    # Without the sign of a slope that rounds to 0.
    return round(statistics.linear_regression(*logs).slope, 2) + 0.0


def stage_curves(part: Part, preset: str, assignments: Sequence[str], repeats: int) -> Iterator[Curve]:
    """Yield a curve a stage of what grows with `part`."""
    found = [measure(part, size, preset, assignments, repeats) for size in POINTS[part]]
    for name in found[0]:
        seconds, grown = zip(*(each[name] for each in found), strict=True)
        yield Curve(f"{name}, {preset}", f"{part}: {_UNITS[part]}", POINTS[part], seconds, grown, tuple(assignments))


def measure(
    part: Part, size: int, preset: str, assignments: Sequence[str], repeats: int
) -> dict[str, tuple[float, int]]:
    """Return seconds and bytes of each stage at a point; of `masks` without the proposer, which finds its own."""
    small, shard = shard_of(part, POINTS[part][0]), shard_of(part, size)
    found = {}
    for kind in STAGES[1:] if part == "masks" else STAGES:
        with child_environment(MEMORY_ENVIRONMENT), ProcessPoolExecutor(1, get_context("spawn")) as process:
            done = process.submit(_run_stage, kind, small, shard, preset, assignments, repeats).result()
        small, shard, seconds, grown = done
        found[kind.name] = (seconds, grown)
    return found


def _run_stage(
    kind: StageKind, small: Shard, shard: Shard, preset: str, assignments: Sequence[str], repeats: int
) -> tuple[Shard, Shard, float, int]:
    """Return what a stage makes of both shards, the second after the first, and seconds and bytes of the second."""
    config = load_config(preset, assignments=["compute.device=cpu", "compute.threads=1", *assignments])
    stage = kind.build(config)
    small, given = stage(small), shard
    # glibc gives free memory back: a stage that took it would seem to need none.
    ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak()
    taken = []
    for _ in range(repeats):
        start_s = cpu_seconds()
        shard = stage(given)
        taken.append(cpu_seconds() - start_s)
    return small, shard, statistics.median(taken), peak_rss_bytes() - before


def shard_of(part: Part, size: int) -> Shard:
    """Return the shard of a point."""
    if part == "masks":
        shard = scene_shard([_mosaic(_SCENES_A_SIDE)], with_true_masks=True)
        (image,) = shard.images
        # Spread over the picture, as those of a photograph.
        kept = image.masks[:: len(image.masks) // size][:size]
        return shard.with_images((replace(image, masks=kept),))
    if part == "image size":
        return scene_shard([_enlarged(size)])
    return scene_shard([scene_image(make_scene(Split.DEMO, position)) for position in range(size)])


def _mosaic(side: int) -> SceneImage:
    """Return `side` × `side` scenes as one picture, with the masks of all of their objects."""
    scenes = [make_scene(Split.DEMO, position) for position in range(side * side)]
    tiles = [render(scene) for scene in scenes]
    rows = [np.concatenate([tile.image for tile in tiles[n : n + side]], axis=1) for n in range(0, len(tiles), side)]
    masks = []
    for number, tile in enumerate(tiles):
        row, column = divmod(number, side)
        height, width = tile.masks.shape[1:]
        margins = ((0, 0), (row * height, (side - 1 - row) * height), (column * width, (side - 1 - column) * width))
        masks.append(np.pad(tile.masks, margins))
    return SceneImage(scenes[0], np.concatenate(masks), encode_png(np.concatenate(rows)))


def _enlarged(side_px: int) -> SceneImage:
    scene = make_scene(Split.DEMO, 0)
    picture = Image.fromarray(render(scene).image).resize((side_px, side_px), Image.Resampling.BICUBIC)
    return SceneImage(scene, np.zeros((0, side_px, side_px), dtype=bool), encode_png(np.asarray(picture)))


def run_curve(preset: str, num_images: int, assignments: Sequence[str]) -> Curve:
    """Return how a run over synthetic images grows with the images committed."""
    curve = _curve_of(f"a run, {preset}", watch_scenes(preset, num_images, assignments))
    return replace(curve, settings=tuple(assignments))


def stub_run_curve(num_images: int) -> Curve:
    """Return how a run grows whose stages only wait: plans, graphs and commits are real."""
    return _curve_of("a run, stages that wait", watch_stub_run(num_images, 40, has_workers=True))


def _curve_of(case: str, watched: Watched) -> Curve:
    """Return the points of a run, halved from its end: CPU seconds since its start, and the memory until then."""
    commits, start_s = watched.answer["commits_s"], watched.answer["start_s"]
    per_shard = watched.answer["num_images"] / len(commits)
    counts = [len(commits)]
    while counts[-1] > 1 and len(counts) < _RUN_POINTS:
        counts.append(counts[-1] // 2)
    counts.reverse()
    until = [watched.between(start_s, commits[count - 1]) for count in counts]
    before_s = _cpu_s(until[0][0])
    return Curve(
        case,
        "images of the run",
        tuple(round(count * per_shard) for count in counts),
        # A worker that ends takes its seconds with it.
        tuple(max(map(_cpu_s, samples)) - before_s for samples in until),
        tuple(max(each.driver.private_bytes + each.workers.private_bytes for each in samples) for samples in until),
    )


def _cpu_s(sample: Sample) -> float:
    return sample.driver.cpu_s + sample.head.cpu_s + sample.workers.cpu_s


def plot(curves: Sequence[Curve]) -> str:
    """Return two charts as SVG: seconds and bytes over sizes, each as its share of its last point, in powers of ten."""
    of_time = [_line(curve, curve.seconds, exponent(curve.sizes, curve.seconds)) for curve in curves]
    of_memory = [
        _line(curve, curve.bytes, power)
        for curve in curves
        for power in [curve.exponent_of_bytes()]
        if power is not None
    ]
    charts = {"CPU seconds": of_time, "memory": of_memory}
    return stack([_chart(name, lines) for name, lines in charts.items() if lines])


def _chart(name: str, lines: Sequence[Line]) -> str:
    x, y = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    title = f"{name[0].upper()}{name[1:]} over size, of the largest, and the exponent"
    return line_chart(title, axis_of("log10 of size", x), axis_of(f"log10 of {name}", y), lines)


def _line(curve: Curve, values: Sequence[float], power: float) -> Line:
    points = [
        (math.log10(size / curve.sizes[-1]), math.log10(value / values[-1]))
        for size, value in zip(curve.sizes, values, strict=True)
        # A small shard may raise nothing.
        if value > 0
    ]
    return Line(f"{_title(curve)}: {power:.2f}", points, is_dashed=curve.case.startswith("a run"))


def _title(curve: Curve) -> str:
    part, separator, _ = curve.unit.partition(":")
    name = f"{curve.case}, {part}" if separator else curve.case
    return f"{name}, --set …" if curve.settings else name


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print a line a curve, write plot and JSON."""
    given = options(__doc__, arguments)
    curves: dict[tuple[str, str, tuple[str, ...]], Curve] = {}
    if given.json is not None and given.json.exists():
        read = map(Curve.of, json.loads(given.json.read_text(encoding="utf-8")))
        curves = {curve.name: curve for curve in read}
    for curve in curves_of(given):
        curves[curve.name] = curve
        row = curve.row()
        print(
            f"{curve.case}, {curve.unit} {curve.sizes[0]:,} to {curve.sizes[-1]:,}: {curve.seconds[0]:.2f} to "
            f"{curve.seconds[-1]:.2f} s, exponent {row['exponent_s']}; {curve.bytes[-1] / 1e6:.0f} MB, exponent "
            f"{'–' if row['exponent_bytes'] is None else row['exponent_bytes']}",
            flush=True,
        )
        write_json([each.row() for each in curves.values()], given.json)
    if given.plot:
        given.plot.write_text(plot(list(curves.values())), encoding="utf-8")


def curves_of(given: argparse.Namespace) -> Iterator[Curve]:
    """Yield the curves that the command asks for."""
    parts = (*POINTS, "run", "stub run")
    wanted = given.part or parts
    if unknown := set(wanted) - set(parts):
        sys.exit(f"--part {min(unknown)}: one of {', '.join(parts)} is allowed")
    for part in POINTS:
        if part in wanted:
            yield from stage_curves(part, given.preset, given.assignments, given.repeats)
    if "run" in wanted:
        yield run_curve(given.preset, given.images, given.assignments)
    if "stub run" in wanted:
        yield stub_run_curve(given.stub_images)


if __name__ == "__main__":
    main()
