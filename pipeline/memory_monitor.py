"""Says that Ray's memory monitor ended workers, and what to do: as a warning while Ray works, and in the error.

Called by `cluster`. It reads Ray's private records, because Ray has no public ones. It only reports: no run fails here.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import RayError

logger = logging.getLogger(__name__)

# The pause after a read is this many times as long as the read, so that reading takes at most 1 % of a core.
_INTERVAL_READS: Final = 100
# protobuf makes these names at import, so type checkers do not know them.
_common: Any = common_pb2
_gcs: Any = gcs_pb2
# Matches Ray's message about used memory, with its two numbers of bytes.
_MEMORY_USED: Final = re.compile(r"[Mm]emory usage (\d+)B exceeded threshold of (\d+)B")


def memory_advice(said: str) -> str:
    """Return why workers were ended, with the figures of what Ray `said`, and the remedy."""
    used = _MEMORY_USED.search(said)
    gib = [f"{int(each) / 2**30:.1f} GiB" for each in used.groups()] if used else []
    limit = f" ({gib[0]} in use, its limit is {gib[1]})" if gib else ""
    return (
        f"to protect the node's memory{limit}: end what else uses the memory, use fewer actors "
        "(placement.fused.max_actors), lower shards.max_images in a new run, take a larger machine, or raise "
        "RAY_memory_usage_threshold where Ray is started"
    )


@contextmanager
def memory_watched(interval_s: float = 10.0) -> Iterator[None]:
    """Warn within seconds when the monitor ends workers of this process, and at each doubling of their number."""
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(is_over, interval_s), daemon=True)
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        # The thread uses Ray's client, so it should end before Ray. The client may hang, so the wait is limited.
        watch.join(timeout=1)


def _watch(is_over: threading.Event, interval_s: float) -> None:
    wait_s, next_told = interval_s, 1
    while not is_over.wait(wait_s):
        began_s = time.monotonic()
        try:
            killed = _killed_workers()
        except RayError:
            # Nothing is reported here, because the run itself will fail with the same error.
            return
        if len(killed) >= next_told:
            next_told = 2 * len(killed)
            many = f"{len(killed)} worker{'s' * (len(killed) > 1)}"
            logger.warning("Ray's memory monitor has ended %s so far %s", many, memory_advice(killed[-1].exit_detail))
        wait_s = max(interval_s, _INTERVAL_READS * (time.monotonic() - began_s))


def _killed_workers() -> list[Any]:
    """Return Ray's records of the workers of this job that were ended, oldest first. Ray has no public name for it."""
    accessor = ray._private.state.state._connect_and_get_accessor()
    records = [_gcs.WorkerTableData.FromString(each) for each in accessor.get_worker_table()]
    job = ray.get_runtime_context().get_job_id()
    ours = (each for each in records if each.exit_type == _common.NODE_OUT_OF_MEMORY and each.job_id.hex() == job)
    return sorted(ours, key=lambda each: each.end_time_ms)
