"""The metrics of a run, each declared once: Ray's instruments and the Grafana dashboard are both made from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Group = Literal["Throughput", "Outcomes", "Stages"]

# Ray puts its own name in front of each.
RAY_PREFIX: Final = "ray_"
RUN_TAG: Final = "run"

_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As Ray is told; `series` is what Prometheus reads.
        kind: What may happen to it.
        unit: `images`, `seconds`, `bytes`, `share` …; a panel's axis follows from it.
        description: What it counts, and when.
        group: Row of the dashboard.
        tags: Label keys; `run` is one of each metric's.
        boundaries: Upper bounds of a histogram's buckets. Ray puts each value at the middle of its bucket: a mean is
            as good as the buckets are narrow.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    group: Group
    tags: tuple[str, ...] = (RUN_TAG,)
    boundaries: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus; of a histogram the buckets, their sum and their count."""
        base = f"{RAY_PREFIX}{self.name}"
        if self.kind == "histogram":
            return (f"{base}_bucket", f"{base}_sum", f"{base}_count")
        return (f"{base}_total",) if self.kind == "counter" else (base,)


IMAGES: Final = Metric(
    name="pseudoris_images",
    kind="counter",
    unit="images",
    description="Images of committed shards, by what became of them; quarantined ones by reason.",
    group="Outcomes",
    tags=(RUN_TAG, "outcome", "reason"),
)
MASKS: Final = Metric(
    name="pseudoris_masks",
    kind="counter",
    unit="masks",
    description="Masks of committed shards.",
    group="Throughput",
)
CANDIDATES: Final = Metric(
    name="pseudoris_candidates",
    kind="counter",
    unit="expressions",
    description="Candidate expressions of committed shards; equal captions of a mask are one.",
    group="Throughput",
)
KEPT: Final = Metric(
    name="pseudoris_kept",
    kind="counter",
    unit="expressions",
    description="Candidates that passed the filter.",
    group="Throughput",
)
SHARDS: Final = Metric(
    name="pseudoris_shards",
    kind="counter",
    unit="shards",
    description="Shards whose commit reached the driver.",
    group="Throughput",
)
REPEATS: Final = Metric(
    name="pseudoris_repeats",
    kind="counter",
    unit="attempts",
    description="Attempts of a pool on a shard beyond the first: what lost processes, nodes and drivers cost.",
    group="Outcomes",
)
STAGE_SECONDS: Final = Metric(
    name="pseudoris_stage_seconds",
    # No histogram: Ray sums one up by the middles of its buckets, and a stage's share of the time should be exact.
    kind="counter",
    unit="seconds",
    description="Seconds that stages worked on committed shards; by second: processes at work on a stage.",
    group="Stages",
    tags=(RUN_TAG, "stage"),
)
LOAD_SECONDS: Final = Metric(
    name="pseudoris_load_seconds",
    kind="histogram",
    unit="seconds",
    description="Seconds that an actor took to load a stage's model.",
    group="Stages",
    tags=(RUN_TAG, "stage"),
    boundaries=_SECONDS,
)
BATCH_FILL: Final = Metric(
    name="pseudoris_batch_fill",
    kind="histogram",
    unit="share",
    description="Share of a forward pass's rows that are no padding, by what they are of.",
    group="Stages",
    tags=(RUN_TAG, "of"),
    boundaries=_SHARES,
)
QUEUE_WAIT_SECONDS: Final = Metric(
    name="pseudoris_queue_wait_seconds",
    kind="histogram",
    unit="seconds",
    description=(
        "Seconds from the end of a shard's last step to the start of a pool's work on it. clocks=one: both ends were "
        "read on one node; clocks=two: on two, whose clocks may differ, and what came out below 0 counts as 0."
    ),
    group="Stages",
    tags=(RUN_TAG, "pool", "clocks"),
    boundaries=_SECONDS,
)
BUSY_SECONDS: Final = Metric(
    name="pseudoris_busy_seconds",
    kind="counter",
    unit="seconds",
    description="Seconds that actors of a pool worked on shards.",
    group="Stages",
    tags=(RUN_TAG, "pool"),
)
IDLE_SECONDS: Final = Metric(
    name="pseudoris_idle_seconds",
    kind="counter",
    unit="seconds",
    description="Seconds that actors of a pool waited for their next shard, models loaded; one clock each.",
    group="Stages",
    tags=(RUN_TAG, "pool"),
)
CACHE_BYTES: Final = Metric(
    name="pseudoris_cache_bytes",
    # No gauge: Ray drops one a few seconds after its process is gone, or earlier.
    kind="histogram",
    unit="bytes",
    description="Bytes that a captioner held in keys and values at the peak of a shard.",
    group="Stages",
    boundaries=tuple(2.0**exponent for exponent in range(12, 38, 2)),
)

STORAGE_RETRIES: Final = Metric(
    name="pseudoris_storage_retries",
    kind="counter",
    unit="requests",
    description="Requests tried again because storage did not answer them, by the step that asked.",
    group="Outcomes",
    tags=(RUN_TAG, "step"),
)

METRICS: Final = (
    IMAGES,
    MASKS,
    CANDIDATES,
    KEPT,
    SHARDS,
    REPEATS,
    STORAGE_RETRIES,
    STAGE_SECONDS,
    LOAD_SECONDS,
    BATCH_FILL,
    QUEUE_WAIT_SECONDS,
    BUSY_SECONDS,
    IDLE_SECONDS,
    CACHE_BYTES,
)
