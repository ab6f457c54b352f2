"""Where a run's metrics are fed: receipts on the driver, what stages measured in their actors.

Counts of outcomes come from receipts alone, which the driver sees once each; a shard that was done twice counts once.
Nothing here may fail a shard: what Ray does not take is dropped and said in the log.
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

from pipeline import metrics
from pipeline.metrics import METRICS, RUN_TAG, Metric
from schemas import measures
from schemas.run import Receipt

logger = logging.getLogger(__name__)

_Instrument = ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram

_HANDED_ON: Final = b"pseudoris.handed_on_unix_s"


def run_name(root: str) -> str:
    """Return the label that tells a run's series from another's: the last folder of OUT, which names no bucket."""
    return root.rstrip("/").rpartition("/")[2] or "run"


class Meter:
    """A run's metrics in this process."""

    def __init__(self, run: str) -> None:
        """Make Ray's instruments; `run` labels all that is recorded."""
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
                # Ray refuses 0, which would change nothing.
                if value > 0:
                    instrument.inc(value, labels)
            elif isinstance(instrument, ray_metrics.Gauge):
                instrument.set(value, labels)
            else:
                instrument.observe(value, labels)


class RunMeter:
    """What the driver counts: shards as their commits land."""

    def __init__(self, root: str) -> None:
        """`root` is where the run lives."""
        self._meter = Meter(run_name(root))

    def count(self, receipt: Receipt) -> None:
        """Count a committed shard, once, and what this process did again meanwhile."""
        _record_counts(self._meter, "driver")
        counts = receipt.counts
        for outcome, number in (("annotated", counts.annotated), ("empty", counts.empty)):
            self._meter.record(metrics.IMAGES, number, {"outcome": outcome, "reason": "none"})
        for reason, number in counts.reasons.items():
            self._meter.record(metrics.IMAGES, number, {"outcome": "quarantined", "reason": reason})
        self._meter.record(metrics.MASKS, counts.masks)
        self._meter.record(metrics.CANDIDATES, counts.expressions)
        self._meter.record(metrics.KEPT, counts.kept)
        self._meter.record(metrics.SHARDS, 1)
        self._meter.record(metrics.REPEATS, receipt.num_repeats)
        for stage, seconds in receipt.seconds.items():
            self._meter.record(metrics.STAGE_SECONDS, seconds, {"stage": stage})


class StageMeter:
    """What an actor measures: loading, waiting, working, and what its stages record on the way."""

    def __init__(self, root: str, pool: str) -> None:
        """`root` is where the run lives, `pool` is the name of the actor's pool."""
        self._meter = Meter(run_name(root))
        self._pool = pool
        self._idle_since = time.perf_counter()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the models that are loaded inside the block."""
        with measures.collecting() as collected:
            yield
        self._take(collected)
        self._idle_since = time.perf_counter()

    @contextmanager
    def at_work(self, block: pa.Table, *, nodes: tuple[str, ...], on_node: str) -> Iterator[None]:
        """Measure the block's work, the wait of the block before it, and that of the actor.

        Args:
            block: As it came.
            nodes: Ray's ids of the nodes that worked on it, the last of which handed it on.
            on_node: Ray's id of this node.
        """
        started = time.perf_counter()
        self._meter.record(metrics.IDLE_SECONDS, started - self._idle_since, {"pool": self._pool})
        with _harmless():
            wait_s = max(0.0, time.time() - float(block.schema.metadata[_HANDED_ON]))
            clocks = "one" if nodes[-1] == on_node else "two"
            self._meter.record(metrics.QUEUE_WAIT_SECONDS, wait_s, {"pool": self._pool, "clocks": clocks})
        try:
            with measures.collecting() as collected:
                yield
            self._take(collected)
        finally:
            self._idle_since = time.perf_counter()
            self._meter.record(metrics.BUSY_SECONDS, self._idle_since - started, {"pool": self._pool})

    def _take(self, collected: measures.Measures) -> None:
        for (name, of), values in collected.values.items():
            if name == measures.CACHE_BYTES:
                self._meter.record(metrics.CACHE_BYTES, max(values))
            elif name == measures.LOAD_SECONDS:
                self._meter.record(metrics.LOAD_SECONDS, sum(values), {"stage": of})
            elif name == measures.BATCH_FILL:
                for value in values:
                    self._meter.record(metrics.BATCH_FILL, value, {"of": of})
        _record_counts(self._meter, self._pool)


def report_counts(root: str, step: str) -> None:
    """Record what this process counted while it worked on a task of the run at `root`: requests tried again."""
    _record_counts(_task_meter(run_name(root)), step)


@functools.cache
def _task_meter(run: str) -> Meter:
    # A process serves many tasks, and instruments are made once.
    return Meter(run)


def _record_counts(meter: Meter, step: str) -> None:
    retries = measures.take_counts().get(measures.STORAGE_RETRIES, 0)
    meter.record(metrics.STORAGE_RETRIES, retries, {"step": step})


def handed_on(block: pa.Table) -> pa.Table:
    """Return the block with the time of now in its metadata, for the wait until the next pool begins."""
    stamp = {_HANDED_ON: repr(time.time()).encode()}
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
    except Exception:  # a figure on a dashboard is worth no shard
        logger.debug("a metric was dropped", exc_info=True)
