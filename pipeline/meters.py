"""Meters feed a run's metrics: from receipts on the driver, from measurements of stages in their actors.

Outcomes are counted from receipts only. The driver sees each receipt once, so a shard that was processed twice counts
once. A meter never fails a shard: values that Ray does not accept are dropped and logged.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
from ray.util import metrics as ray_metrics

from pseudoris.pipeline import run_metrics
from pseudoris.pipeline.run_metrics import METRICS, RUN_TAG, Metric
from pseudoris.schemas import measures
from pseudoris.schemas.run_records import Receipt

logger = logging.getLogger(__name__)

_Instrument = ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram

_ENQUEUE_TIME: Final = b"pseudoris.handed_on_unix_s"


def run_name(root: str) -> str:
    """Return the label of a run's series: the last folder of OUT, which reveals no bucket name."""
    return root.rstrip("/").rpartition("/")[2] or "run"


class Meter:
    """A run's metrics in this process."""

    def __init__(self, run: str) -> None:
        """Create Ray's instruments; `run` labels everything that is recorded."""
        self._run = run
        self._instruments: dict[str, _Instrument] = {}
        with _harmless():
            self._instruments = {metric.name: _instrument(metric) for metric in METRICS}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""
        with _harmless():
            instrument = self._instruments[metric.name]
            labels = {RUN_TAG: self._run, **(tags or {})}
            if isinstance(instrument, ray_metrics.Counter):
                # Ray refuses 0, and adding 0 would change nothing.
                if value > 0:
                    instrument.inc(value, labels)
            elif isinstance(instrument, ray_metrics.Gauge):
                instrument.set(value, labels)
            else:
                instrument.observe(value, labels)


class RunMeter:
    """Counts, on the driver, shards as their commits land."""

    def __init__(self, root: str) -> None:
        """`root` is where the run lives."""
        self._meter = Meter(run_name(root))

    def count(self, receipt: Receipt) -> None:
        """Count a committed shard, and the requests that this process retried since the last call."""
        _record_counts(self._meter, "driver")
        counts = receipt.counts
        for outcome, number in (("annotated", counts.annotated), ("empty", counts.empty)):
            self._meter.record(run_metrics.IMAGES, number, {"outcome": outcome, "reason": "none"})
        for reason, number in counts.reasons.items():
            self._meter.record(run_metrics.IMAGES, number, {"outcome": "quarantined", "reason": reason})
        self._meter.record(run_metrics.MASKS, counts.masks)
        self._meter.record(run_metrics.CANDIDATES, counts.expressions)
        self._meter.record(run_metrics.KEPT, counts.kept)
        self._meter.record(run_metrics.SHARDS, 1)
        self._meter.record(run_metrics.REPEATS, receipt.num_repeats)
        for stage, seconds in receipt.seconds.items():
            self._meter.record(run_metrics.STAGE_SECONDS, seconds, {"stage": stage})


class StageMeter:
    """Measures, in an actor, loading, waiting and working, and records what its stages measure."""

    def __init__(self, root: str, pool: str) -> None:
        """`root` is where the run lives, `pool` is the name of the actor's pool."""
        self._meter = Meter(run_name(root))
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
        """Measure the work on the block, the time that the block waited, and the time that the actor waited.

        Args:
            block: The block as it arrived.
            nodes: Ray's ids of the nodes that worked on it; the last one passed it on.
            on_node: Ray's id of this node.
        """
        started = time.perf_counter()
        self._meter.record(run_metrics.IDLE_SECONDS, started - self._idle_since, {"pool": self._pool})
        with _harmless():
            wait_s = max(0.0, time.time() - float(block.schema.metadata[_ENQUEUE_TIME]))
            clocks = "one" if nodes[-1] == on_node else "two"
            self._meter.record(run_metrics.QUEUE_WAIT_SECONDS, wait_s, {"pool": self._pool, "clocks": clocks})
        try:
            with measures.collecting() as collected:
                yield
            self._take(collected)
        finally:
            self._idle_since = time.perf_counter()
            self._meter.record(run_metrics.BUSY_SECONDS, self._idle_since - started, {"pool": self._pool})

    def _take(self, collected: measures.Measures) -> None:
        for (name, of), values in collected.values.items():
            if name == measures.CACHE_BYTES:
                self._meter.record(run_metrics.CACHE_BYTES, max(values))
            elif name == measures.LOAD_SECONDS:
                self._meter.record(run_metrics.LOAD_SECONDS, sum(values), {"stage": of})
            elif name == measures.BATCH_FILL:
                for value in values:
                    self._meter.record(run_metrics.BATCH_FILL, value, {"of": of})
        _record_counts(self._meter, self._pool)


def report_counts(root: str, step: str) -> None:
    """Record what this process counted during a task of the run at `root`: retried requests."""
    _record_counts(_task_meter(run_name(root)), step)


@functools.cache
def _task_meter(run: str) -> Meter:
    # A process serves many tasks, but instruments are created once.
    return Meter(run)


def _record_counts(meter: Meter, step: str) -> None:
    retries = measures.take_counts().get(measures.STORAGE_RETRIES, 0)
    meter.record(run_metrics.STORAGE_RETRIES, retries, {"step": step})


def stamp_enqueue_time(block: pa.Table) -> pa.Table:
    """Return the block with the current time in its metadata: the next pool measures its wait in the queue."""
    stamp = {_ENQUEUE_TIME: repr(time.time()).encode()}
    return block.replace_schema_metadata({**(block.schema.metadata or {}), **stamp})


def _instrument(metric: Metric) -> _Instrument:
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.tags)
    kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return kind(metric.name, metric.description, metric.tags)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:  # a metric must not fail a shard
        logger.debug("dropped a metric that Ray did not accept", exc_info=True)
