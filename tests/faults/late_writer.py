"""A writer that comes late: `python -m tests.faults.late_writer OUT SHARD [ASSIGNMENT …]`.

It computes a shard of the run at OUT, writes its parts, and stops itself (SIGSTOP) before it would create the receipt.
Woken (SIGCONT), it goes on, and prints whether it has won.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from pseudoris.files.location import RunLocation
from pseudoris.images.prover import Prover
from pseudoris.schemas.run_records import RECEIPTS_FOLDER
from pseudoris.store.runs import commit
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.workers.stages import STAGES
from tests.builders.runs import stub_config


def main() -> None:
    out, number, *assignments = sys.argv[1:]
    config = stub_config(*assignments)
    location = RunLocation.open(out)
    header = require_header(location)
    entries = read_shard_plan(location, header, int(number))
    with Prover(config.images) as prover:
        shard = read_shard(header.source, config, entries, prover=prover)
    for kind in STAGES:
        shard = kind.build(config)(shard)
    _stop_before_the_receipt()
    told: list[logging.LogRecord] = []
    commit.logger.addFilter(lambda record: not told.append(record))
    commit.commit_shard(
        location,
        shard,
        planned_ids=[entry.image_id for entry in entries],
        embed_images=config.shards.embed_images,
        provenance=commit.Provenance(header_sha256=header.sha256),
    )
    print("lost" if told else "won")


def _stop_before_the_receipt() -> None:
    create_once = RunLocation.create_once

    def stop_and_create(location: RunLocation, path: str, data: bytes) -> bool:
        if path.startswith(RECEIPTS_FOLDER):
            os.kill(os.getpid(), signal.SIGSTOP)
        return create_once(location, path, data)

    RunLocation.create_once = stop_and_create


if __name__ == "__main__":
    main()
