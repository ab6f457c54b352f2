"""Records a run's metrics, which Ray gives to Prometheus. Called by `annotation`, `executor` and `shard_tasks`.

Outcomes are counted from receipts only: the driver sees each receipt once, so a shard that was processed twice counts
once. A meter never fails a shard: values that Ray does not accept are dropped and logged.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

import pyarrow as pa
from ray.util import metrics as ray_metrics

from pseudoris.primitives import measures
from pseudoris.schemas.run_records import Receipt

logger = logging.getLogger(__name__)

RUN_TAG: Final = "run"

_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_Instrument = ray_metrics.Counter | ray_metrics.Histogram
_ENQUEUE_TIME: Final = b"pseudoris.handed_on_unix_s"


class Metric(NamedTuple):
    """One metric, a counter or a histogram.

    Attributes:
        name: The name given to Ray; `series` has the names in Prometheus.
        description: What it counts, and when.
        tags: Label keys, besides `run`, which every metric has.
        boundaries: Upper bounds of a histogram's buckets; a metric without them is a counter. Ray counts each value as
            the middle of its bucket, so a mean is only as exact as the buckets are narrow.
    """

    name: str
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus; for a histogram: the buckets, their sum and their count."""
        # Ray puts this prefix before the name of each metric.
        base = f"ray_{self.name}"
        return (f"{base}_bucket", f"{base}_sum", f"{base}_count") if self.boundaries else (f"{base}_total",)


# All metrics are defined here. A test checks that the Grafana dashboard uses these metrics.
METRICS: Final = (
    IMAGES := Metric(
        "pseudoris_images",
        "Images of committed shards, by outcome; quarantined images by reason.",
        ("outcome", "reason"),
    ),
    MASKS := Metric("pseudoris_masks", "Masks of committed shards."),
    CANDIDATES := Metric(
        "pseudoris_candidates", "Candidate expressions of committed shards; equal captions of a mask count once."
    ),
    KEPT := Metric("pseudoris_kept", "Candidates that passed the filter."),
    SHARDS := Metric("pseudoris_shards", "Shards whose commit reached the driver."),
    REPEATS := Metric(
        "pseudoris_repeats", "Attempts that a pool repeated on a shard after the loss of a process, node or driver."
    ),
    STORAGE_RETRIES := Metric("pseudoris_storage_retries", "Storage requests that were retried, by step.", ("step",)),
    # This is a counter, because Ray would sum a histogram from the middles of its buckets, which is inexact.
    STAGE_SECONDS := Metric(
        "pseudoris_stage_seconds",
        "Seconds that stages worked on committed shards. Its rate is the number of busy processes of a stage.",
        ("stage",),
    ),
    LOAD_SECONDS := Metric(
        "pseudoris_load_seconds", "Seconds that an actor took to load a stage's model.", ("stage",), _SECONDS
    ),
    BATCH_FILL := Metric(
        "pseudoris_batch_fill", "Share of a forward pass's rows that are not padding, by kind of row.", ("of",), _SHARES
    ),
    QUEUE_WAIT_SECONDS := Metric(
        "pseudoris_queue_wait_seconds",
        "Seconds from the end of a shard's last step to the start of a pool's work on it. clocks=one: both times were "
        "read on one node. clocks=two: on two nodes, whose clocks may differ; a negative difference counts as 0.",
        ("pool", "clocks"),
        _SECONDS,
    ),
    BUSY_SECONDS := Metric("pseudoris_busy_seconds", "Seconds that actors of a pool worked on shards.", ("pool",)),
    IDLE_SECONDS := Metric(
        "pseudoris_idle_seconds",
        "Seconds that actors of a pool waited for their next shard, after their models were loaded.",
        ("pool",),
    ),
    # This is a histogram, because Ray drops a gauge a few seconds after its process ends.
    CACHE_BYTES := Metric(
        "pseudoris_cache_bytes",
        "Peak bytes of a captioner's keys and values during a shard.",
        boundaries=tuple(2.0**exponent for exponent in range(12, 38, 2)),
    ),
)


class Meter:
    """A run's metrics in this process."""

    def __init__(self, root: str) -> None:
        """Create Ray's instruments; the last folder of `root`, OUT, labels all series: it reveals no bucket."""
        self._run = root.rstrip("/").rpartition("/")[2] or "run"
        self._instruments: dict[str, _Instrument] = {}
        with _harmless():
            self._instruments = {metric.name: _instrument(metric) for metric in METRICS}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Add to a counter, or observe in a histogram."""
        with _harmless():
            instrument = self._instruments[metric.name]
            labels = {RUN_TAG: self._run, **(tags or {})}
            if isinstance(instrument, ray_metrics.Histogram):
                instrument.observe(value, labels)
            # Ray refuses 0, and adding 0 changes nothing.
            elif value > 0:
                instrument.inc(value, labels)

    def count_retries(self, step: str) -> None:
        """Count the storage requests that this process retried since the last call."""
        retries = measures.take_counts().get(measures.STORAGE_RETRIES, 0)
        self.record(STORAGE_RETRIES, retries, {"step": step})

    def count_commit(self, receipt: Receipt) -> None:
        """Count, on the driver, a shard whose commit has landed."""
        self.count_retries("driver")
        counts = receipt.counts
        for outcome, number in (("annotated", counts.annotated), ("empty", counts.empty)):
            self.record(IMAGES, number, {"outcome": outcome, "reason": "none"})
        for reason, number in counts.reasons.items():
            self.record(IMAGES, number, {"outcome": "quarantined", "reason": reason})
        totals = {MASKS: counts.masks, CANDIDATES: counts.expressions, KEPT: counts.kept, REPEATS: receipt.num_repeats}
        for metric, number in {**totals, SHARDS: 1}.items():
            self.record(metric, number)
        for stage, seconds in receipt.seconds.items():
            self.record(STAGE_SECONDS, seconds, {"stage": stage})


class StageMeter(Meter):
    """Measures, in an actor, loading, waiting and working, and records what its stages measure."""

    def __init__(self, root: str, pool: str) -> None:
        """`root` is OUT, `pool` is the name of the actor's pool."""
        super().__init__(root)
        self._pool = pool
        self._idle_since = time.perf_counter()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the time that the models in the block take to load."""
        with measures.collecting() as collected:
            yield
        self._take(collected)
        self._idle_since = time.perf_counter()

    @contextmanager
    def at_work(self, block: pa.Table, *, nodes: tuple[str, ...], on_node: str) -> Iterator[None]:
        """Measure the work on the block, and how long block and actor waited.

        `nodes` are Ray's ids of the nodes that worked on it, the last one passed it on; `on_node` is this one.
        """
        started = time.perf_counter()
        self.record(IDLE_SECONDS, started - self._idle_since, {"pool": self._pool})
        with _harmless():
            wait_s = max(0.0, time.time() - float(block.schema.metadata[_ENQUEUE_TIME]))
            clocks = "one" if nodes[-1] == on_node else "two"
            self.record(QUEUE_WAIT_SECONDS, wait_s, {"pool": self._pool, "clocks": clocks})
        try:
            with measures.collecting() as collected:
                yield
            self._take(collected)
        finally:
            self._idle_since = time.perf_counter()
            self.record(BUSY_SECONDS, self._idle_since - started, {"pool": self._pool})

    def _take(self, collected: measures.Measures) -> None:
        for (name, of), values in collected.items():
            if name == measures.CACHE_BYTES:
                self.record(CACHE_BYTES, max(values))
            elif name == measures.LOAD_SECONDS:
                self.record(LOAD_SECONDS, sum(values), {"stage": of})
            elif name == measures.BATCH_FILL:
                for value in values:
                    self.record(BATCH_FILL, value, {"of": of})
        self.count_retries(self._pool)


@functools.cache
def task_meter(root: str) -> Meter:
    """Return the meter of the tasks of the run at `root`. A process has one, as instruments are created once."""
    return Meter(root)


def stamp_enqueue_time(block: pa.Table) -> pa.Table:
    """Return the block with the current time in its metadata: the next pool measures its wait in the queue."""
    stamp = {_ENQUEUE_TIME: repr(time.time()).encode()}
    return block.replace_schema_metadata({**(block.schema.metadata or {}), **stamp})


def _instrument(metric: Metric) -> _Instrument:
    tags = (RUN_TAG, *metric.tags)
    if metric.boundaries:
        return ray_metrics.Histogram(metric.name, metric.description, list(metric.boundaries), tags)
    return ray_metrics.Counter(metric.name, metric.description, tags)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:  # a metric must not fail a shard
        logger.debug("dropped a metric that Ray did not accept", exc_info=True)
