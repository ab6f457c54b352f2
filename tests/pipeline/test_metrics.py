"""The registry of metrics."""

from __future__ import annotations

import re

import pytest

from pseudoris.pipeline.metrics import METRICS, RUN_TAG


def test_names_are_one_a_metric():
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_told_apart_by_run_and_named_as_prometheus_wants(metric):
    assert re.fullmatch(r"pseudoris_[a-z_]+", metric.name)
    assert metric.tags[0] == RUN_TAG
    assert metric.description.endswith(".")
    assert metric.unit not in ("seconds", "bytes") or metric.name.endswith(f"_{metric.unit}")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_histograms_alone_have_boundaries_ascending_above_zero(metric):
    assert bool(metric.boundaries) == (metric.kind == "histogram")
    assert list(metric.boundaries) == sorted(set(metric.boundaries))
    assert all(bound > 0 for bound in metric.boundaries)
