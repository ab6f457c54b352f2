"""Measures what a shard costs the driver: real plans, graphs and commits around stages that only wait.

    python -m evidence.benchmarks.scale [--rows 10000 100000] [--shard-images 100 …] [--shard-s 0.0] [--work-s 600.0]
    [--folder FOLDER] [--json FILE]

Tables of tiny images are planned, read, proven, taken through stand-ins for the models (a set wait a shard, see
`evidence/benchmarks/plugins`) and committed, beside bare Ray Data: as many blocks through two pools of one actor, which
wait as long. Ray's loop takes CPU by the second, so a slower side costs more a shard: only at one pace (`--shard-s
0.2`) does the driver's CPU show our part alone. Every run is a process of its own, watched from outside; workers are
not counted. `--rows` and `--shard-images` take several numbers, and every pair is measured. `--work-s` ends a side
early: the plan and the graph are of all shards, what a shard costs is of those that were committed.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from evidence.benchmarks.measurement import options, print_table, write_json
from evidence.benchmarks.process_watch import Watched, run_watched
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config

# Of a table: a reader parses its footer once a shard, and a footer grows with its row groups.
_MAX_GROUPS: Final = 100
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY_4_X_4: Final = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
_PLUGINS: Final = Path(__file__).parent / "plugins"
_STAND_INS: Final = ("masks.engine=timed", "captions.engine=timed", "filtering.engine=timed")


def tiny_png(number: int) -> bytes:
    """Return a PNG of 4 × 4 grey pixels, another for each `number` below 2^64."""
    rows = number.to_bytes(8, "big").hex(" ", 2).split()
    scanlines = b"".join(b"\0" + bytes.fromhex(row) * 2 for row in rows)
    return (
        _SIGNATURE + _chunk(b"IHDR", _GREY_4_X_4) + _chunk(b"IDAT", zlib.compress(scanlines, 1)) + _chunk(b"IEND", b"")
    )


def write_tables(folder: Path, *, rows: int, group_rows: int) -> Path:
    """Write `rows` images as Parquet files with row groups of `group_rows`, which bound shards; return their folder."""
    folder.mkdir(parents=True)
    table_rows = group_rows * _MAX_GROUPS
    for first in range(0, rows, table_rows):
        images = [tiny_png(number) for number in range(first, min(first + table_rows, rows))]
        table = pa.table({"bytes": pa.array(images, pa.binary())})
        pq.write_table(table, folder / f"images-{first:012d}.parquet", row_group_size=group_rows)
    return folder


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@dataclass(frozen=True, slots=True)
class Cost:
    """What blocks cost one side.

    Attributes:
        committed_shards: How many came to their end; all, where `--work-s` was enough.
        pool_start_s: From the start of the graph to the first block's end: processes, imports, its own work.
        overhead_s_per_shard: Wall seconds from the first block's end to the last one's, the set waits taken off.
        driver_cpu_s_per_shard: CPU seconds of the driver in that span.
        head_cpu_s_per_shard: Of Ray's own processes (GCS and raylet) in that span.
        driver_start_rss_bytes: Of the driver once Ray is up, before anything is listed.
        driver_first_rss_bytes: At the first block's end: every read task of the graph stands by then.
        driver_peak_rss_bytes: The highest.
        driver_growth_bytes_per_1000_shards: From the first block's end to the highest after it.
        head_growth_bytes_per_1000_shards: Of GCS and raylet, in the same span.
        end_s: From the last block's end to that of the run.
    """

    committed_shards: int
    pool_start_s: float
    overhead_s_per_shard: float
    driver_cpu_s_per_shard: float
    head_cpu_s_per_shard: float
    driver_start_rss_bytes: int
    driver_first_rss_bytes: int
    driver_peak_rss_bytes: int
    driver_growth_bytes_per_1000_shards: float
    head_growth_bytes_per_1000_shards: float
    end_s: float


def cost_of(watched: Watched, *, wait_s: float) -> Cost:
    """Return what a watched run cost; `wait_s` is the stages' set wait a shard. At least two shards."""
    answer = watched.answer
    commits: list[float] = answer["commits_s"]
    work = watched.between(commits[0], commits[-1])
    before = watched.between(answer["start_s"], answer["start_s"])
    later = len(commits) - 1
    first, last = work[0], work[-1]
    return Cost(
        committed_shards=len(commits),
        pool_start_s=commits[0] - answer["graph_s"],
        overhead_s_per_shard=(commits[-1] - commits[0]) / later - wait_s,
        driver_cpu_s_per_shard=(last.driver.cpu_s - first.driver.cpu_s) / later,
        head_cpu_s_per_shard=(last.head.cpu_s - first.head.cpu_s) / later,
        driver_start_rss_bytes=before[0].driver.rss_bytes,
        driver_first_rss_bytes=first.driver.rss_bytes,
        driver_peak_rss_bytes=max(sample.driver.rss_bytes for sample in watched.samples),
        driver_growth_bytes_per_1000_shards=_growth([sample.driver.rss_bytes for sample in work], later),
        head_growth_bytes_per_1000_shards=_growth([sample.head.rss_bytes for sample in work], later),
        end_s=answer["end_s"] - commits[-1],
    )


def watch_run(
    source: Path,
    out: Path,
    config: RunConfig,
    environment: Mapping[str, str],
    *,
    work_s: float = math.inf,
    has_workers: bool = False,
) -> Watched:
    """Watch a run of its own process from SOURCE into OUT, for `work_s` after its first commit at the most."""
    arguments = ["run", str(work_s), str(source), str(out), config.model_dump_json()]
    return run_watched("evidence.benchmarks.scale_driver", arguments, environment, has_workers=has_workers)


def measure(folder: Path, *, rows: int, shard_images: int, shard_s: float, work_s: float) -> dict[str, object]:
    """Return the JSON row of one size: ours, and bare Ray Data's over as many blocks as `bare_…`."""
    source = write_tables(folder / "in", rows=rows, group_rows=shard_images)
    config = stand_in_config(shard_images=shard_images, shard_s=shard_s)
    environment = plugin_environment()
    ours = watch_run(source, folder / "out", config, environment, work_s=work_s)
    num_shards = ours.answer["num_shards"]
    bare = run_watched(
        "evidence.benchmarks.scale_driver", ["bare", str(work_s), str(num_shards), str(shard_s)], environment
    )
    start_s, planned_s = ours.answer["start_s"], ours.answer["planned_s"]
    sizes = [sample.driver.rss_bytes for sample in ours.between(start_s, planned_s)]
    beside = asdict(cost_of(bare, wait_s=shard_s))
    return {
        "rows": ours.answer["num_images"],
        "shards": num_shards,
        "shard_images": shard_images,
        "shard_s": shard_s,
        "plan_s": planned_s - start_s,
        # Above the driver's start: while it plans, and what of it is still held when the graph is built.
        "plan_peak_growth_bytes": max(sizes) - sizes[0],
        "plan_held_growth_bytes": sizes[-1] - sizes[0],
        **asdict(cost_of(ours, wait_s=shard_s)),
        **{f"bare_{name}": value for name, value in beside.items()},
    }


def plugin_environment() -> dict[str, str]:
    """Return the environment of a process that finds the stand-ins, and this repository."""
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_PLUGINS), str(root), os.environ.get("PYTHONPATH")]))}


def stand_in_config(*, shard_images: int, shard_s: float) -> RunConfig:
    """Return the configuration of a run of stand-ins: one actor that waits `shard_s` a shard."""
    assignments = [
        *_STAND_INS,
        f"masks.options={{shard_s: {shard_s}}}",
        f"shards.max_images={shard_images}",
        "placement.fused.max_actors=1",
        "placement.address=local",
    ]
    return load_config("tiny", assignments=assignments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON after every size."""
    given = options(__doc__, arguments)
    measured: list[dict[str, object]] = []
    for rows in given.rows:
        for shard_images in given.shard_images:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                row = measure(
                    Path(folder), rows=rows, shard_images=shard_images, shard_s=given.shard_s, work_s=given.work_s
                )
            measured.append(row)
            # A million rows take an hour: what is done is not lost with what is not.
            write_json(measured, given.json)
    show(measured)


def show(measured: Sequence[dict[str, object]]) -> None:
    """Print the rows as a table, a size a column."""
    cells = [
        {"": name, **{f"{row['rows']:,} rows": _shown(name, row[name]) for row in measured}} for name in measured[0]
    ]
    print_table("scale: a shard's cost to the control plane", cells)


def _shown(name: str, value: object) -> str:
    if "bytes" in name and isinstance(value, int | float):
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"


def _growth(sizes: Sequence[int], num_shards: int) -> float:
    return (max(sizes) - sizes[0]) / num_shards * 1_000


if __name__ == "__main__":
    main()
