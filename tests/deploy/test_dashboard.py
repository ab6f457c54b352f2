"""The Grafana dashboard against the metrics that it is made from."""

from __future__ import annotations

import json
import re

import pytest

from pseudoris.deploy.dashboard import PATH, panel_of, to_json
from pseudoris.pipeline.meters import METRICS

BOARD = json.loads(PATH.read_text())
GRAPHS = [panel for panel in BOARD["panels"] if panel["type"] == "timeseries"]


def named(text):
    """Names of the run's own series in a text."""
    return set(re.findall(r"ray_pseudoris_\w+", text))


def test_the_file_in_the_repository_is_what_the_metrics_give():
    assert PATH.read_text() == to_json() == to_json(), "make dashboard"


def test_it_shows_every_metric_and_no_other():
    shown = set().union(*(named(target["expr"]) for panel in GRAPHS for target in panel["targets"]))
    assert shown == {series for metric in METRICS for series in metric.series}
    assert named(json.dumps(BOARD["templating"])) <= shown


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_panel_has_the_metric_s_words_tags_and_run(metric):
    panel = panel_of(metric)
    assert panel.description == metric.description
    for query, _ in panel.queries:
        assert query.count('{run=~"$run"}') == len(re.findall("ray_pseudoris", query))
        assert all(tag in query for tag in metric.tags)
        assert query.count("(") == query.count(")")
