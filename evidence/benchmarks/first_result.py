"""Measures what a person waits for: from the command to the first committed shard, and what the processes hold then.

    python -m evidence.benchmarks.first_result [--preset tiny] [--images 4] [--repeats 5] [--bare FILE] [--json FILE]

The floor is a bare Ray Data job in a process of its own (`--bare`): it starts a local Ray, the same read tasks, pools
of as many actors and commit tasks, imports the same libraries in each, and does no work; its first result is its first
block. Both sides run in turn, each from a cold start. Memory is the highest proportional set size of all processes of a
side together, read from outside: a page that several share counts once.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from evidence.benchmarks.measurement import options, write_json
from evidence.benchmarks.process_watch import ProcessGroup, process_groups
from evidence.benchmarks.scale_driver import Blocks
from pseudoris.pipeline.cluster import connected, node_resources
from pseudoris.pipeline.executor import actor_runtime, configure_ray_data
from pseudoris.pipeline.resources import busy_actors, num_committers, num_readers, plan_actors
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config

# What the engines of the presets import, and what reading and committing do.
_OF_MODELS: Final = (
    "torch",
    "torchvision",
    "open_clip",
    "segment_anything",
    "scipy.ndimage",
    "pycocotools.mask",
    "PIL",
)
_OF_READING: Final = ("PIL.Image", "numpy", "fsspec")
_OF_COMMITTING: Final = ("pyarrow.parquet", "numpy", "fsspec")
_PERIOD_S: Final = 0.05
# Reading what a process holds takes the kernel milliseconds.
_MEMORY_PERIOD_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class FirstResult:
    """One cold start: seconds to the first result and to the end, and the processes when they held most together."""

    first_s: float
    end_s: float
    processes: tuple[ProcessGroup, ...]

    @property
    def peak_pss_bytes(self) -> int:
        """The bytes of all processes together."""
        return sum(group.pss_bytes for group in self.processes)


class _Imports:
    """An actor that has loaded what models need, and hands blocks on."""

    def __init__(self) -> None:
        _import(_OF_MODELS)

    def __call__(self, block: pa.Table) -> pa.Table:
        return block


def _reads(block: pa.Table) -> pa.Table:
    _import(_OF_READING)
    return block


def _commits(block: pa.Table) -> pa.Table:
    _import(_OF_COMMITTING)
    return block


def _import(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)


def bare(config: RunConfig, num_shards: int, first: Path) -> None:
    """Take blocks through the pools of `config`; write the file `first` when the first one arrives."""
    with connected("local"):
        configure_ray_data()
        actors = busy_actors(plan_actors(node_resources(), config), num_shards)
        placement = config.placement
        dataset = ray.data.read_datasource(
            Blocks(num_shards), override_num_blocks=num_shards, num_cpus=placement.read.num_cpus
        ).map_batches(
            _reads,
            batch_size=None,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(size=num_readers(config.placement)),
            num_cpus=placement.read.num_cpus,
        )
        for name, pool in config.model_pools().items():
            dataset = dataset.map_batches_internal(
                _Imports,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=actors[name]),
                num_cpus=pool.num_cpus,
                runtime_env=actor_runtime(config.compute),
            )
        committed = dataset.map_batches(
            _commits,
            batch_size=None,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(size=num_committers(config.placement)),
            num_cpus=placement.commit.num_cpus,
        )
        for _ in committed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            first.touch()


def timed(command: Sequence[str], results: Path, pattern: str) -> FirstResult:
    """Run a command; return when the first file of `pattern` lay in `results`, and what its processes held.

    Raises:
        subprocess.CalledProcessError: It failed.
        RuntimeError: It ended without such a file.
    """
    began, first_s, memory_due = time.monotonic(), None, 0.0
    held: list[tuple[ProcessGroup, ...]] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            now = time.monotonic() - began
            if first_s is None and any(results.glob(pattern)):
                first_s = now
            if now >= memory_due:
                with suppress(psutil.NoSuchProcess):
                    held.append(tuple(process_groups(watched)))
                memory_due = now + _MEMORY_PERIOD_S
            time.sleep(_PERIOD_S)
    end_s = time.monotonic() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    if first_s is None:
        raise RuntimeError(f"{' '.join(command)} ended without a result in {results}")
    return max((FirstResult(first_s, end_s, groups) for groups in held), key=lambda each: each.peak_pss_bytes)


def write_images(folder: Path, count: int) -> Path:
    """Write scenes as images; return their folder."""
    # Here, because it loads torch: the driver of the bare job has none, as that of a run.
    from evidence.recipes.scene_shards import scene_image
    from pseudoris.synthworld.scenes import Split, make_scene

    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04d}.png").write_bytes(scene_image(make_scene(Split.DEMO, number)).data)
    return folder


def sides(preset: str, num_images: int, repeats: int) -> Iterator[tuple[FirstResult, FirstResult]]:
    """Yield pairs of the bare job and of `pseudoris annotate`, each from a cold start."""
    module = [sys.executable, "-m", "evidence.benchmarks.first_result", "--preset", preset, "--images", str(num_images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_images(folder / "images", num_images)
        for number in range(repeats):
            own = folder / str(number)
            own.mkdir()
            floor = timed([*module, "--bare", str(own / "first")], own, "first")
            command = [sys.executable, "-m", "pseudoris", "annotate", str(source), str(own / "out")]
            ours = timed([*command, "--preset", preset, "--address", "local"], own / "out" / "_receipts", "**/*.json")
            yield floor, ours


def row_of(pairs: Sequence[tuple[FirstResult, FirstResult]], case: str) -> dict[str, object]:
    """Return the JSON row: medians, the ratio of ours to the floor, and the bytes of both."""
    floors, ours = zip(*pairs, strict=True)
    floor_s, ours_s = (statistics.median(each.first_s for each in side) for side in (floors, ours))
    floor_bytes, ours_bytes = (statistics.median(each.peak_pss_bytes for each in side) for side in (floors, ours))
    return {
        "case": case,
        "baseline_s": round(floor_s, 2),
        "ours_s": round(ours_s, 2),
        "ratio": round(ours_s / floor_s, 3),
        "baseline_end_s": round(statistics.median(each.end_s for each in floors), 2),
        "ours_end_s": round(statistics.median(each.end_s for each in ours), 2),
        "baseline_peak_pss_bytes": int(floor_bytes),
        "peak_pss_bytes": int(ours_bytes),
        "all": [[_figures(each) for each in pair] for pair in pairs],
        "baseline_processes": _processes(floors),
        "ours_processes": _processes(ours),
    }


def _figures(result: FirstResult) -> dict[str, object]:
    return {"first_s": result.first_s, "end_s": result.end_s, "peak_pss_bytes": result.peak_pss_bytes}


def _processes(results: Sequence[FirstResult]) -> list[dict[str, object]]:
    """Return the processes of the start whose memory is the median."""
    ranked = sorted(results, key=lambda each: each.peak_pss_bytes)
    return [asdict(group) for group in ranked[len(ranked) // 2].processes]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or be the bare side."""
    given = options(__doc__, arguments)
    if given.bare:
        config = load_config(given.preset)
        bare(config, -(-given.images // config.shards.max_images), given.bare)
        return
    pairs = []
    for floor, ours in sides(given.preset, given.images, given.repeats):
        pairs.append((floor, ours))
        print(f"first result: bare {floor.first_s:.1f} s, ours {ours.first_s:.1f} s")
    row = row_of(pairs, f"first result of {given.images} images, {given.preset}")
    print(
        f"{row['case']}: {row['ours_s']} s, a bare job {row['baseline_s']} s, ratio {row['ratio']}; "
        f"{int(row['peak_pss_bytes']) / 1e9:.2f} GB, a bare job {int(row['baseline_peak_pss_bytes']) / 1e9:.2f} GB"  # type: ignore[call-overload]
    )
    write_json([row], given.json)


if __name__ == "__main__":
    main()
