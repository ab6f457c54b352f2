"""The Grafana dashboard, generated from the metrics.

`python -m pseudoris.deploy.dashboard > deploy/dashboards/pseudoris.json` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from pseudoris.pipeline.meters import METRICS, RUN_TAG, Metric

PATH: Final = Path(__file__).parent / "dashboards" / "pseudoris.json"

# The schema version of Grafana 10; later versions migrate it themselves.
SCHEMA_VERSION: Final = 38
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
# Our units -> Grafana's. All other units are shown as plain numbers.
_AXES: Final = {"seconds": "s", "bytes": "bytes", "share": "percentunit"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: its title and description, the unit of its axis, and one line per query."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]


# Ray's own metrics of the nodes that the run uses; `node-exporter` is not needed.
MACHINES: Final = (
    Panel(
        "GPU utilisation",
        "As reported by the driver of each GPU.",
        "percent",
        (("avg by (instance, GpuIndex) (ray_node_gpus_utilization)", "{{instance}} GPU {{GpuIndex}}"),),
    ),
    Panel(
        "GPU memory",
        "Used on each GPU.",
        "decmbytes",
        (("avg by (instance, GpuIndex) (ray_node_gram_used)", "{{instance}} GPU {{GpuIndex}}"),),
    ),
    Panel("CPU", "Used on each node.", "percent", (("avg by (instance) (ray_node_cpu_utilization)", "{{instance}}"),)),
    Panel("Memory", "Used on each node.", "bytes", (("avg by (instance) (ray_node_mem_used)", "{{instance}}"),)),
    Panel(
        "Object store",
        "Bytes in use. Bytes spilled to disk should stay 0.",
        "bytes",
        (
            ("sum by (instance) (ray_object_store_used_memory)", "{{instance}} used"),
            ('sum by (instance) (ray_object_store_memory{Location="SPILLED"})', "{{instance}} spilled"),
        ),
    ),
    Panel("Nodes", "Alive, by type.", "none", (("sum by (node_type) (ray_cluster_active_nodes)", "{{node_type}}"),)),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    groups: dict[str, list[Panel]] = {}
    for metric in METRICS:
        groups.setdefault(metric.group, []).append(panel_of(metric))
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    return {
        "uid": "pseudoris",
        "title": "pseudoris",
        "tags": ["pseudoris", "ray"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, _run_variable()]},
        "panels": list(_laid_out({**groups, "Machines": list(MACHINES)})),
    }


def panel_of(metric: Metric) -> Panel:
    """Return the panel of a metric: a counter as its rate, a histogram as its mean and 95th percentile."""
    by = list(metric.tags)
    legend = " ".join(f"{{{{{tag}}}}}" for tag in by) or metric.unit
    queries: tuple[tuple[str, str], ...]
    is_rate = not metric.boundaries
    if is_rate:
        queries = ((_rate(metric.series[0], by), legend),)
    else:
        bucket, total, number = metric.series
        mean = f"{_rate(total, by)} / {_rate(number, by)}"
        high = f"histogram_quantile(0.95, {_rate(bucket, [*by, 'le'])})"
        queries = ((mean, f"{legend} mean"), (high, f"{legend} p95"))
    # Seconds per second is the average number of busy actors.
    unit = "none" if is_rate else _AXES.get(metric.unit, "none")
    title = metric.name.removeprefix("pseudoris_").replace("_", " ").capitalize()
    return Panel(f"{title} per second" if is_rate else title, metric.description, unit, queries)


def to_json() -> str:
    """Return the dashboard's file, the same bytes each time."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _rate(series: str, tags: Sequence[str]) -> str:
    by = f" by ({', '.join(tags)})" if tags else ""
    return f'sum{by} (rate({series}{{{RUN_TAG}=~"$run"}}[$__rate_interval]))'


def _laid_out(groups: dict[str, list[Panel]]) -> Iterator[dict[str, Any]]:
    numbers = count(1)
    top = 0
    for group, panels in groups.items():
        yield {
            "type": "row",
            "id": next(numbers),
            "title": group,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        }
        top += 1
        per_row = _COLUMNS // _WIDTH
        for place, panel in enumerate(panels):
            position = {"x": place % per_row * _WIDTH, "y": top + place // per_row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            yield _graph(panel, next(numbers), position)
        top += -(-len(panels) // per_row) * _HEIGHT


def _graph(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def _run_variable() -> dict[str, Any]:
    # From the first counter that every run has.
    query = f"label_values({METRICS[0].series[0]}, {RUN_TAG})"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "runs"},
        "definition": query,
        # Refreshed when the time range changes: runs come and go.
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    sys.stdout.write(to_json())
