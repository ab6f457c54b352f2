"""A driver process for tests that end it: `python -m tests.builders.driver SOURCE OUT ADDRESS DIE_AT [ASSIGNMENT …]`.

DIE_AT is where it ends itself by SIGKILL: `plan` (one part of several is written), `header` (all of them
are), `planned` (no shard has started) or `never`. Among the assignments `--retry-failed` may stand. It prints one JSON
line when it comes back; interrupted before there is anything to tell, it ends with 130, as `pseudoris annotate` does.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator

from pseudoris.pipeline import annotation
from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.schemas.config import PoolConfig
from pseudoris.store.runs import plan, planned_run
from pseudoris.store.runs.pending_work import Planned, RunEvent
from pseudoris.store.sources import Source, SourceItem
from tests.builders.runs import stub_config

RETRY_FAILED = "--retry-failed"


def main() -> None:
    source, out, address, die_at, *words = sys.argv[1:]
    assignments = [word for word in words if word != RETRY_FAILED]
    if die_at == "plan":
        _die_in_the_listing(after=13)
    if die_at == "header":
        planned_run.create_header = lambda location, header: _die()
    config = stub_config(f"placement.address={address}", *assignments)

    def on_event(event: RunEvent) -> None:
        if isinstance(event, Planned) and die_at == "planned":
            _die()

    options = RunOptions(is_retry=RETRY_FAILED in words)
    summary = annotate(source, out, config, options=options, on_event=on_event)
    left = {
        "interrupted": summary.interrupted,
        "shards": summary.totals.shards,
        "shards_before": summary.num_shards_before,
        "repeats": summary.totals.repeats,
    }
    print(json.dumps(left))


def _die_in_the_listing(*, after: int) -> None:
    # Two shards of four a part: with the thirteenth image the first part is full and written, the others are not.
    plan.MAX_SHARDS_PER_PART = 2
    listed = annotation.list_on_cluster

    def list_and_die(source: Source, pool: PoolConfig) -> Iterator[SourceItem]:
        yield from itertools.islice(listed(source, pool), after)
        _die()

    annotation.list_on_cluster = list_and_die


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
