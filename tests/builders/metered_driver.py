"""A driver whose metrics can be read after its run: `python -m tests.builders.metered_driver SOURCE OUT ADDRESS`.

It prints its summary as one JSON line and stays connected until its standard input ends: Ray forgets what a process
reported soon after the process is gone.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict

import ray

from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.meters import METRICS, Meter
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.pending_work import Committed, RunEvent

# Of the label of a run that records each metric once, whatever happens to happen in a real one.
ALL_NAMES = "all-names"


def main() -> None:
    source, out, address = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    config = load_config("tiny", None, ["shards.max_images=3", "placement.fused.max_actors=1"])
    num_captioned = 0

    def count(event: RunEvent) -> None:
        nonlocal num_captioned
        num_captioned += isinstance(event, Committed) and event.receipt.counts.masks > 0

    summary = annotate(source, out, config, on_event=count)
    meter = Meter(ALL_NAMES)
    for metric in METRICS:
        meter.record(metric, 1.0, {tag: "any" for tag in metric.tags})
    print(json.dumps({**asdict(summary.totals), "captioned": num_captioned}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
