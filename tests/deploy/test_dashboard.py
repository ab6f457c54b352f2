"""The Grafana dashboard against the metrics that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pseudoris.pipeline.meters import METRICS

PATH = Path(__file__).parents[2] / "deploy" / "dashboards" / "pseudoris.json"
BOARD = json.loads(PATH.read_text())
GRAPHS = [panel for panel in BOARD["panels"] if panel["type"] == "timeseries"]


def named(panel):
    """Names of the run's own series in a part of the dashboard."""
    return set(re.findall(r"ray_pseudoris_\w+", json.dumps(panel)))


def test_it_shows_every_metric_and_no_other():
    shown = set().union(*(named(panel["targets"]) for panel in GRAPHS))
    assert shown == {series for metric in METRICS for series in metric.series}
    assert named(BOARD["templating"]) <= shown
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_panel_of_a_metric_has_its_words_its_tags_and_the_run(metric):
    (panel,) = (each for each in GRAPHS if named(each["targets"]) & set(metric.series))
    assert panel["description"] == metric.description
    for query in (target["expr"] for target in panel["targets"]):
        assert query.count('{run=~"$run"}') == len(re.findall("ray_pseudoris", query))
        assert all(tag in query for tag in metric.tags)
        assert query.count("(") == query.count(")")
