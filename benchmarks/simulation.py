"""Simulates what a large run loses to faults and to the driver, from measured overheads.

    python -m benchmarks.simulation [--scale FILE] [--gpus 8 64 512] [--images 10000000 100000000]
    [--images-per-s 0.2 1.0 5.0] [--shard-images N …] [--placement fused staged] [--gpus-after-plan] [--repeats 5]
    [--json FILE] [--plot FILE]

For every number of GPUs, images and images a shard: GPU idle share, work lost, and the share of the control plane, with
the 90 % interval over `--repeats` runs of other seeds. The driver's seconds a shard come from the JSON of
`benchmarks.scale`; how many images a GPU does a second is an assumption, and swept.
With `--gpus-after-plan` no GPU stands by while the input is planned.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.fleet import DriverQueue, Fleet, Spent, simulate
from benchmarks.measurement import options, print_table, write_json
from experiments.quality.svg_chart import Axis, Line, line_chart, stack

# Percent, of the plot's logarithmic axis.
_TICKS: Final = (0.1, 0.3, 1, 2, 10, 30, 100)
_RESULTS: Final = Path(__file__).parent / "results" / "scale.json"
# Of a core: what a driver uses that waits (docs/records/scale.md).
IDLE_SHARE: Final = 0.04
SHARD_IMAGES: Final = (16, 32, 64, 128, 256, 512, 1024, 2048)
# Finished work that a lost node holds, in shards: with pools of 0.4, 0.5 and 0.1 of a GPU in turn the three shards at
# work on it have 0.2, 0.65 and 0.95 of theirs behind them, of which the clock counts 0.5.
HELD_SHARDS: Final = {"fused": 0.0, "staged": 1.3}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What was not measured; seconds.

    Attributes:
        actor_s: Of an actor between two shards: a listing and two small objects written, the record of its attempt.
        pool_start_s: Processes, weights from a disk nearby, a GPU's context.
        node_losses_per_h: 5 % of the nodes an hour.
        node_return_s: Until another node stands in place of a lost one.
        driver_deaths_per_h: One a day.
        driver_return_s: Until whoever watches the job has submitted it again.
        waits_for_plan: Whether all GPUs stand by while the input is listed and planned. An autoscaler brings them for
            the graph, which comes after.
        resume_s_per_shard: A LIST page of 1,000 receipts in 0.1 s, a tenth of the receipts by 16 readers at 20 ms.
    """

    actor_s: float = 0.15
    pool_start_s: float = 60.0
    node_losses_per_h: float = 0.05
    node_return_s: float = 300.0
    driver_deaths_per_h: float = 1 / 24
    driver_return_s: float = 300.0
    waits_for_plan: bool = True
    resume_s_per_shard: float = 0.1 / 1_000 + 0.1 * 0.02 / 16


@dataclass(frozen=True, slots=True)
class Case:
    """One run to simulate."""

    gpus: int
    images: int
    images_per_s: float
    shard_images: int
    placement: str = "fused"


@dataclass(frozen=True, slots=True)
class Measured:
    """What `benchmarks.scale` measured of a run: CPU seconds of the driver a shard, seconds of planning an image.

    A driver with little to do looks for more all the time, so its CPU time a shard grows with the time between two:
    `IDLE_SHARE` of that time is taken off. What is left is no less than bare Ray Data, which keeps the driver busy.
    """

    driver_s: float
    plan_s_per_image: float

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Return the driver's figure where most shards were committed, and the plan's of the largest plan."""
        rows = json.loads(path.read_text(encoding="utf-8"))
        longest = max(rows, key=lambda row: row["committed_shards"])
        largest = max(rows, key=lambda row: row["rows"])
        wall_s = longest["overhead_s_per_shard"] + longest["shard_s"]
        busy_s = longest["driver_cpu_s_per_shard"] - IDLE_SHARE * wall_s
        return cls(max(busy_s, longest["bare_driver_cpu_s_per_shard"]), largest["plan_s"] / largest["rows"])


def fleet_of(case: Case, measured: Measured, assumed: Assumptions) -> Fleet:
    """Return the fleet of `case`, its cycle from the queue at the driver."""
    shard_s = case.shard_images / case.images_per_s
    return Fleet(
        gpus=case.gpus,
        num_shards=-(-case.images // case.shard_images),
        shard_s=shard_s,
        cycle_s=_cycle_s(case.gpus, shard_s + assumed.actor_s, measured.driver_s),
        plan_s=case.images * measured.plan_s_per_image if assumed.waits_for_plan else 0.0,
        pool_start_s=assumed.pool_start_s,
        node_losses_per_h=assumed.node_losses_per_h,
        node_return_s=assumed.node_return_s,
        driver_deaths_per_h=assumed.driver_deaths_per_h,
        driver_return_s=assumed.driver_return_s,
        resume_s_per_shard=assumed.resume_s_per_shard,
        held_shards=HELD_SHARDS[case.placement],
    )


def row_of(case: Case, runs: Sequence[Spent], *, driver_s: float) -> dict[str, object]:
    """Return the JSON row of a case: means over its runs, and the bounds of 90 % of them as `…_low` and `…_high`."""
    shares: dict[str, list[float]] = {
        "hours": [run.hours for run in runs],
        "control_share": [run.control_share for run in runs],
        "idle_share": [run.idle / run.paid for run in runs],
        "lost_share": [1 - run.work / run.paid for run in runs],
        "lost_work_share": [(run.lost_to_nodes + run.lost_to_drivers) / run.paid for run in runs],
    }
    parts = ("planning", "queue", "starts", "drains", "driver", "lost_to_drivers", "lost_to_nodes", "node_starts")
    row: dict[str, object] = {**asdict(case), "repeats": len(runs)}
    # Of one core of the driver: at 1 it is the bottleneck, whatever waits for it.
    row["driver_busy_share"] = min(1.0, case.gpus * driver_s * case.images_per_s / case.shard_images)
    for name, values in shares.items():
        low, high = np.quantile(values, [0.05, 0.95])
        row |= {name: float(np.mean(values)), f"{name}_low": float(low), f"{name}_high": float(high)}
    row |= {f"{name}_share": float(np.mean([getattr(run, name) / run.paid for run in runs])) for name in parts}
    row |= {
        name: float(np.mean([getattr(run, name) for run in runs]))
        for name in ("num_windows", "num_node_losses", "num_driver_deaths")
    }
    return row


def sweep(cases: Sequence[Case], measured: Measured, assumed: Assumptions, repeats: int) -> Iterator[dict[str, object]]:
    """Yield the row of each case."""
    for case in cases:
        fleet = fleet_of(case, measured, assumed)
        yield row_of(case, [simulate(fleet, seed) for seed in range(repeats)], driver_s=measured.driver_s)


def _rounded(value: object) -> object:
    # The repeats agree on fewer digits.
    return round(value, 5) if isinstance(value, float) else value


@functools.cache
def _cycle_s(gpus: int, work_s: float, driver_s: float) -> float:
    if gpus * driver_s < 0.5 * work_s:
        # A driver idle for half of its time never keeps a GPU waiting that has a second shard (tests).
        return work_s
    return max(DriverQueue(gpus, work_s, driver_s).cycle_s(), work_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate what the command line asks for, print a table a rate, write JSON and plot."""
    given = options(__doc__, arguments)
    measured = Measured.read(given.scale or _RESULTS)
    assumed = Assumptions(waits_for_plan=not given.gpus_after_plan)
    axes = (given.gpus, given.images, given.images_per_s, given.shard_images or SHARD_IMAGES, given.placement)
    rows = list(sweep([Case(*point) for point in product(*axes)], measured, assumed, given.repeats))
    write_json([{name: _rounded(value) for name, value in row.items()} for row in rows], given.json)
    show(rows, measured.driver_s)
    if given.plot:
        given.plot.write_text(plot(rows), encoding="utf-8")


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the fused runs of the most images over the size of a shard, as an SVG chart for each number of GPUs."""
    most = max(row["images"] for row in rows)
    shown = [row for row in rows if row["images"] == most and row["placement"] == "fused"]
    sizes = sorted({row["shard_images"] for row in shown})
    along = Axis("images a shard", -0.3, len(sizes) - 0.7, [(at, str(size)) for at, size in enumerate(sizes)])
    ticks = [(math.log10(percent), f"{percent:g} %") for percent in _TICKS]
    up = Axis("share that is not work", ticks[0][0], ticks[-1][0], ticks)

    def line(title: str, of_fleet: Sequence[Mapping[str, Any]], share: str) -> Line:
        found = {row["shard_images"]: min(max(100 * row[share], _TICKS[0]), _TICKS[-1]) for row in of_fleet}
        points = [(at, math.log10(found[size])) for at, size in enumerate(sizes) if size in found]
        return Line(title, points, is_dashed=share == "control_share")

    def chart(gpus: int) -> str:
        rates = sorted({row["images_per_s"] for row in shown})
        fleets = {rate: [r for r in shown if (r["gpus"], r["images_per_s"]) == (gpus, rate)] for rate in rates}
        every = [line(f"{rate:g} images/s a GPU", rows, "lost_share") for rate, rows in fleets.items()]
        control = [line(f"{rate:g}: control plane", rows, "control_share") for rate, rows in fleets.items()]
        return line_chart(f"{gpus} GPUs, {most:,} images", along, up, [*every, *control])

    return stack([chart(gpus) for gpus in sorted({row["gpus"] for row in shown})])


def show(rows: Sequence[dict[str, object]], driver_s: float) -> None:
    """Print the shares over the sizes of a shard, a line a fleet."""
    title = f"control plane % / lost work % by images a shard (driver {driver_s * 1e3:.1f} ms a shard)"
    fleets: dict[tuple[object, ...], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(str(row["shard_images"]))):
        names = {"GPUs": "gpus", "images": "images", "images/s": "images_per_s", "placement": "placement"}
        key = tuple(row[name] for name in names.values())
        cells = fleets.setdefault(key, {name: str(row[of]) for name, of in names.items()})
        cells[str(row["shard_images"])] = f"{row['control_share']:.2%} / {row['lost_work_share']:.2%}"
    print_table(title, list(fleets.values()), width=200)


if __name__ == "__main__":
    main()
