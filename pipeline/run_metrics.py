"""The metrics of a run, each declared once: Ray's instruments and the Grafana dashboard are both built from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Group = Literal["Throughput", "Outcomes", "Stages"]

# The prefix that Ray adds to each name.
RAY_PREFIX: Final = "ray_"
RUN_TAG: Final = "run"

_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: The name given to Ray; `series` has the names in Prometheus.
        kind: Kind of instrument.
        unit: `images`, `seconds`, `bytes`, `share` …; it sets the unit of a panel's axis.
        description: What it counts, and when.
        group: Row of the dashboard.
        tags: Label keys; every metric has `run`.
        boundaries: Upper bounds of a histogram's buckets. Ray counts each value as the middle of its bucket, so a mean
            is only as exact as the buckets are narrow.
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
        """Names of its series in Prometheus; for a histogram: the buckets, their sum and their count."""
        base = f"{RAY_PREFIX}{self.name}"
        if self.kind == "histogram":
            return (f"{base}_bucket", f"{base}_sum", f"{base}_count")
        return (f"{base}_total",) if self.kind == "counter" else (base,)


IMAGES: Final = Metric(
    name="pseudoris_images",
    kind="counter",
    unit="images",
    description="Images of committed shards, by outcome; quarantined images by reason.",
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
    description="Candidate expressions of committed shards; equal captions of a mask count once.",
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
    description="Attempts that a pool repeated on a shard after the loss of a process, node or driver.",
    group="Outcomes",
)
STAGE_SECONDS: Final = Metric(
    name="pseudoris_stage_seconds",
    # Not a histogram: Ray sums one by the middles of its buckets, and a stage's share of the time should be exact.
    kind="counter",
    unit="seconds",
    description="Seconds that stages worked on committed shards. Its rate is the number of busy processes of a stage.",
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
    description="Share of a forward pass's rows that are not padding, by kind of row.",
    group="Stages",
    tags=(RUN_TAG, "of"),
    boundaries=_SHARES,
)
QUEUE_WAIT_SECONDS: Final = Metric(
    name="pseudoris_queue_wait_seconds",
    kind="histogram",
    unit="seconds",
    description=(
        "Seconds from the end of a shard's last step to the start of a pool's work on it. clocks=one: both times were "
        "read on one node. clocks=two: on two nodes, whose clocks may differ; a negative difference counts as 0."
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
    description="Seconds that actors of a pool waited for their next shard, after their models were loaded.",
    group="Stages",
    tags=(RUN_TAG, "pool"),
)
CACHE_BYTES: Final = Metric(
    name="pseudoris_cache_bytes",
    # Not a gauge: Ray drops a gauge a few seconds after its process ends, or earlier.
    kind="histogram",
    unit="bytes",
    description="Peak bytes of a captioner's keys and values during a shard.",
    group="Stages",
    boundaries=tuple(2.0**exponent for exponent in range(12, 38, 2)),
)

STORAGE_RETRIES: Final = Metric(
    name="pseudoris_storage_retries",
    kind="counter",
    unit="requests",
    description="Storage requests that were retried, by step.",
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
