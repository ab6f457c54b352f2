"""Metrics of a real run, read as Prometheus reads them, and what becomes of a metric that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from unittest.mock import Mock

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pseudoris.pipeline.meters import METRICS, Meter, StageMeter, stamp_enqueue_time, task_meter
from pseudoris.primitives.measures import CACHE_BYTES, LOAD_SECONDS, STORAGE_RETRIES, count, record, take_counts
from pseudoris.synthworld.demo import write_demo
from tests.builders.command import wait_for
from tests.builders.head import ROOT, running_head
from tests.builders.metered_driver import ALL_NAMES

ALL_SERIES = {series for metric in METRICS for series in metric.series}


class Scrape:
    def __init__(self, url: str) -> None:
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        self.samples = [sample for family in families for sample in family.samples if "pseudoris" in sample.name]

    def names(self, run: str) -> set[str]:
        return {sample.name for sample in self.samples if sample.labels["run"] == run}

    def total(self, name: str, run: str, **labels: str) -> float:
        wanted = {"run": run, **labels}
        return sum(s.value for s in self.samples if s.name == name and wanted.items() <= s.labels.items())

    def by(self, name: str, run: str, label: str) -> dict[str, float]:
        counted: Counter[str] = Counter()
        for sample in self.samples:
            if sample.name == name and sample.labels["run"] == run and sample.value:
                counted[sample.labels[label]] += sample.value
        return dict(counted)


def _has_all(scrape: Scrape, num_shards: int) -> bool:
    # The last a process reports of a shard.
    num_reported = scrape.total("ray_pseudoris_cache_bytes_count", "out")
    return scrape.names(ALL_NAMES) >= ALL_SERIES and num_reported >= num_shards


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """What a run of the embedded models summed up, and a scrape of its node after it."""
    folder = tmp_path_factory.mktemp("metered")
    source = write_demo(folder / "in", num_scenes=3)
    with running_head() as head:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.builders.metered_driver", str(source), str(folder / "out"), head.address],
            cwd=ROOT,
            env={**os.environ, **head.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            totals = json.loads(driver.stdout.readline())
            # Reported at intervals, by each process for itself.
            with suppress(TimeoutError):
                wait_for(lambda: _has_all(Scrape(head.metrics_url), totals["captioned"]), timeout_s=45)
            time.sleep(2)
            yield totals, Scrape(head.metrics_url)
        finally:
            driver.stdin.close()
            driver.wait(timeout=60)


@pytest.mark.ray
@pytest.mark.long
def test_a_scrape_shows_every_series_of_the_registry_and_no_other(scraped):
    assert scraped[1].names(ALL_NAMES) == ALL_SERIES


@pytest.mark.ray
@pytest.mark.long
def test_outcomes_are_those_of_the_run_s_summary(scraped):
    totals, scrape = scraped
    outcomes = {name: totals[name] for name in ("annotated", "empty", "quarantined") if totals[name]}
    assert scrape.by("ray_pseudoris_images_total", "out", "outcome") == outcomes
    reasons = scrape.by("ray_pseudoris_images_total", "out", "reason")
    assert {reason: count for reason, count in reasons.items() if reason != "none"} == totals["reasons"]
    counted = {"masks": "masks", "candidates": "expressions", "kept": "kept", "shards": "shards"}
    for series, name in counted.items():
        assert scrape.total(f"ray_pseudoris_{series}_total", "out") == totals[name] > 0
    assert scrape.total("ray_pseudoris_repeats_total", "out") == 0


@pytest.mark.ray
@pytest.mark.long
def test_stages_show_their_seconds_loads_waits_fills_and_caches(scraped):
    totals, scrape = scraped
    assert scrape.by("ray_pseudoris_stage_seconds_total", "out", "stage") == pytest.approx(totals["seconds"])
    assert scrape.by("ray_pseudoris_load_seconds_count", "out", "stage") == {"propose": 1, "caption": 1, "filter": 1}
    assert scrape.by("ray_pseudoris_queue_wait_seconds_count", "out", "clocks") == {"one": totals["shards"]}
    worked = sum(totals["seconds"][stage] for stage in ("propose", "caption", "filter"))
    assert worked <= scrape.total("ray_pseudoris_busy_seconds_total", "out", pool="fused") < 2 * worked
    assert scrape.total("ray_pseudoris_idle_seconds_total", "out") > 0
    for labels in ({"of": "caption crops"}, {"of": "filter crops"}, {"of": "filter texts"}):
        passes = scrape.total("ray_pseudoris_batch_fill_count", "out", **labels)
        assert 0 < scrape.total("ray_pseudoris_batch_fill_sum", "out", **labels) <= passes
    # A shard of broken images alone has nothing to caption.
    assert scrape.total("ray_pseudoris_cache_bytes_count", "out") == totals["captioned"] > 0
    assert scrape.total("ray_pseudoris_cache_bytes_sum", "out") > 2**12


def test_requests_tried_again_are_recorded_once_with_the_step_that_asked(monkeypatch):
    found = []
    monkeypatch.setattr(Meter, "record", lambda meter, metric, value, tags: found.append((value, tags)))
    take_counts()
    count(STORAGE_RETRIES, 2)
    for step in ("read", "commit"):
        task_meter("/runs/run-7").count_retries(step)
    assert found == [(2, {"step": "read"}), (0, {"step": "commit"})]


@pytest.mark.parametrize("block", [pa.table({"shard": [1]}), stamp_enqueue_time(pa.table({"shard": [1]}))])
def test_a_metric_that_fails_fails_no_shard(block, monkeypatch):
    monkeypatch.setattr("ray.util.metrics.Counter", Mock(side_effect=RuntimeError("no instrument")))
    meter = StageMeter("/out", "fused")
    with meter.loading():
        record(LOAD_SECONDS, 1.0, of="caption")
    with meter.at_work(block, nodes=(), on_node="b"):
        record(CACHE_BYTES, 1)
