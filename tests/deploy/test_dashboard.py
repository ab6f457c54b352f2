"""The Grafana dashboard against the metrics that it is made from."""

from __future__ import annotations

import json
import re

from pseudoris.deploy.dashboard import PATH, to_json
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
