"""Measures how the memory of a long run grows: the driver's over many shards, the workers' over many images.

    python -m evidence.benchmarks.memory [--part driver|bare|workers …] [--rows 100000] [--shard-images 10]
    [--scenes 3000] [--plot FILE] [--json FILE]

Each part takes half an hour and more, and replaces its own row of the JSON: parts may be measured one by one.

The driver runs real plans, graphs and commits around stages that only wait (`scale`), beside bare Ray Data
over as many blocks: it may grow by 2 MB a 1,000 shards more. The workers annotate synthetic scenes with the preset
`tiny`; they must stay flat. Growth is the slope of a straight line after the first fifth, the warm-up; what is taken
once, in it, is given apart. Every process is watched from outside; its files and Ray's object store are not counted.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from evidence.benchmarks.measurement import options, write_json
from evidence.benchmarks.process_watch import Watched, run_watched
from evidence.benchmarks.scale import plugin_environment, stand_in_config, watch_run, write_tables
from evidence.experiments.quality.svg_chart import Line, axis_of, line_chart
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.demo import write_demo

ALLOWED_BYTES_PER_1000_SHARDS: Final = 2_000_000
PARTS: Final = ("driver", "bare", "workers")
# Of a curve in the JSON and in the plot.
_POINTS: Final = 60
# Of the shards: what comes before is warm-up.
_WARM_UP: Final = 0.2
_SCENE_SHARD_IMAGES: Final = 16
_T = TypeVar("_T")


def driver_memory(rows: int, shard_images: int) -> dict[str, Any]:
    """Return the row of a run of stand-ins."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_tables(folder / "in", rows=rows, group_rows=shard_images)
        config = stand_in_config(shard_images=shard_images, shard_s=0.0)
        return _driver_row("driver", watch_run(source, folder / "out", config, plugin_environment()), rows)


def bare_memory(rows: int, shard_images: int) -> dict[str, Any]:
    """Return the row of bare Ray Data over as many blocks as the run has shards."""
    arguments = ["bare", "inf", str(-(-rows // shard_images)), "0"]
    return _driver_row(
        "bare Ray Data", run_watched("evidence.benchmarks.scale_driver", arguments, plugin_environment()), rows
    )


def _driver_row(case: str, watched: Watched, rows: int) -> dict[str, Any]:
    commits = watched.answer["commits_s"]
    samples = watched.between(commits[0], commits[-1])
    curve = [(bisect_right(commits, sample.at_s), sample.driver.private_bytes) for sample in samples]
    warm = _warm(curve)
    return {
        "case": case,
        "images": rows,
        "shards": len(commits),
        "warm_up_bytes": warm[0][1] - curve[0][1],
        "growth_bytes_per_1000_shards": _slope(warm) * 1_000,
        "peak_bytes": max(size for _, size in curve),
        "curve": _thinned(curve),
    }


def worker_memory(scenes: int) -> dict[str, Any]:
    """Return the row of a run of `tiny`: the private bytes of all of its workers over the images committed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_demo(folder, num_scenes=scenes)
        own = [f"shards.max_images={_SCENE_SHARD_IMAGES}", "placement.address=local"]
        config = load_config("tiny", assignments=own)
        watched = watch_run(source, folder / "out", config, {}, has_workers=True)
    commits, num_images = watched.answer["commits_s"], watched.answer["num_images"]
    per_shard = num_images / len(commits)
    samples = watched.between(commits[0], commits[-1])
    curve = [(bisect_right(commits, sample.at_s) * per_shard, sample.workers.private_bytes) for sample in samples]
    warm = _warm(curve)
    half = len(warm) // 2
    first, second = (statistics.median(size for _, size in part) for part in (warm[:half], warm[half:]))
    return {
        "case": "workers of tiny",
        "images": num_images,
        "shards": len(commits),
        "first_half_median_bytes": first,
        "second_half_median_bytes": second,
        "growth_bytes_per_1000_images": _slope(warm) * 1_000,
        "peak_bytes": max(size for _, size in curve),
        "curve": _thinned(curve),
    }


def _warm(curve: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    return [point for point in curve if point[0] > _WARM_UP * curve[-1][0]]


def _slope(curve: Sequence[tuple[float, int]]) -> float:
    return statistics.linear_regression([at for at, _ in curve], [size for _, size in curve]).slope


def _thinned(values: Sequence[_T]) -> list[_T]:
    step = max(1, -(-len(values) // _POINTS))
    return list(values[::step])


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """Return the curves as SVG: private megabytes over the share of the run that is done."""
    lines = []
    for row in rows:
        end = row["curve"][-1][0]
        points = [(100 * at / end, size / 1e6) for at, size in row["curve"]]
        lines.append(Line(f"{row['case']}, {row['images']:,} images", points, is_dashed=row["case"].startswith("bare")))
    sizes = [point[1] for line in lines for point in line.points]
    x, y = axis_of("percent of the run", [0.0, 100.0], start=0.0), axis_of("private MB", sizes, start=0.0)
    return line_chart("Memory over a run", x, y, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, print the figures, write plot and JSON."""
    given = options(__doc__, arguments)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "driver": lambda: driver_memory(given.rows, given.shard_images),
        "bare": lambda: bare_memory(given.rows, given.shard_images),
        "workers": lambda: worker_memory(given.scenes),
    }
    rows: dict[str, dict[str, Any]] = {}
    if given.json is not None and given.json.exists():
        rows = {row["part"]: row for row in json.loads(given.json.read_text(encoding="utf-8"))}
    for part in given.part or PARTS:
        rows[part] = {"part": part, **parts[part]()}
        show(rows[part])
        write_json([rows[name] for name in PARTS if name in rows], given.json)
    if {"driver", "bare"} <= rows.keys():
        show_difference(rows["driver"], rows["bare"])
    if given.plot:
        given.plot.write_text(plot([rows[name] for name in PARTS if name in rows]), encoding="utf-8")


def show(row: dict[str, Any]) -> None:
    """Print what the driver grew by, or what the workers held in the two halves after the warm-up."""
    if row["part"] == "workers":
        first, second = row["first_half_median_bytes"] / 1e6, row["second_half_median_bytes"] / 1e6
        growth = row["growth_bytes_per_1000_images"] / 1e6
        text = (
            f"{row['images']:,} images, median {first:.0f} MB, then {second:.0f} MB ({growth:+.1f} MB a 1,000 images)"
        )
    else:
        growth = row["growth_bytes_per_1000_shards"] / 1e6
        text = f"{row['shards']:,} shards, {growth:.2f} MB a 1,000, peak {row['peak_bytes'] / 1e6:.0f} MB"
    print(f"{row['case']:>16}: {text}", flush=True)


def show_difference(ours: dict[str, Any], bare: dict[str, Any]) -> None:
    """Print by how much the driver grows more than bare Ray Data, and whether that is allowed."""
    more = ours["growth_bytes_per_1000_shards"] - bare["growth_bytes_per_1000_shards"]
    verdict = "within" if more <= ALLOWED_BYTES_PER_1000_SHARDS else "ABOVE"
    print(
        f"{'difference':>16}: {more / 1e6:.2f} MB a 1,000 shards, {verdict} {ALLOWED_BYTES_PER_1000_SHARDS / 1e6:.0f}"
    )


if __name__ == "__main__":
    main()
