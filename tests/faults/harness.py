"""What the fault tests share: a cluster of several nodes on this machine, drivers to kill, and the proof afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tenacity import Retrying, stop_after_attempt

from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.attempts import Attempt, parse_attempts
from pseudoris.store.runs.receipts import list_commits, read_receipts
from pseudoris.store.tables.open_run import OpenRun
from tests.store.builders import parts

ROOT = Path(__file__).parents[2]
# A driver imports Ray and waits for processes that import torch: seconds, on a busy machine minutes.
DEADLINE_S = 300.0
# Two actors on three nodes: one node can be lost and there is still room for both.
NODES = 3
NODE_TRIES = 3


class LocalCluster:
    """A Ray cluster of several raylets on this machine; `kill_node` is what a spot loss looks like."""

    def __init__(self, num_nodes: int = NODES, *, num_cpus: float = 2, **node_arguments: Any) -> None:
        from ray._common.utils import reset_ray_address
        from ray.cluster_utils import Cluster

        self._arguments = {"num_cpus": num_cpus, "object_store_memory": 100 * 2**20, **node_arguments}
        # The head does no work, as on a real cluster: its loss is another fault than a node's.
        head = {"num_cpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        # Ray puts it on record, and `auto` would join it in tests that have nothing to do with it.
        reset_ray_address()
        self.nodes: list[Any] = []
        for _ in range(num_nodes):
            self.add_node()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self, **arguments: Any) -> Any:
        # Ray gives a raylet 30 seconds, which a machine under a soak may not have.
        start = Retrying(stop=stop_after_attempt(NODE_TRIES), reraise=True)
        node = start(self._cluster.add_node, wait=False, **{**self._arguments, **arguments})
        self.nodes.append(node)
        return node

    def kill_node(self, node_id: str) -> None:
        """End a node's raylet, and with it all of its workers, by SIGKILL."""
        node = next(node for node in self.nodes if node.node_id == node_id)
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def raylets(self) -> list[int]:
        return [info.process.pid for node in self.nodes for info in node.all_processes.get("raylet", ())]

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def local_cluster(num_nodes: int = NODES, **arguments: Any) -> Iterator[LocalCluster]:
    cluster = LocalCluster(num_nodes, **arguments)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def answer_in(output: str) -> dict[str, Any]:
    """Return the JSON line that a driver printed at its end, {} if there is none; libraries may print below it."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {}


@dataclass
class Driver:
    """A start of a run in a process of its own."""

    process: subprocess.Popen[str]
    out: str

    def location(self) -> RunLocation:
        return RunLocation.open(self.out)

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """Return what `condition` returns once it is true; the driver must live until then."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            if self.process.poll() is not None:
                raise AssertionError(f"the driver ended before {what}:\n{self._output()}")
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(0.02)
        return found

    def attempt(self, among: Callable[[Attempt], bool] = lambda attempt: True) -> Attempt:
        def under_way() -> list[Attempt]:
            return [attempt for attempt in open_attempts(self.location()) if among(attempt)]

        return self.wait_until(under_way, "a shard was begun")[0]

    def wait_for_commits(self, count: int) -> None:
        self.wait_until(lambda: num_receipts(self.location()) >= count, f"{count} shards were committed")

    def finish(self, code: int = 0) -> dict[str, Any]:
        """Return what the driver printed at its end; its exit code must be `code`."""
        output = self._output()
        assert self.process.returncode == code, f"exit code {self.process.returncode}:\n{output}"
        return answer_in(output) or {"text": output}

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=DEADLINE_S)

    def _output(self) -> str:
        return self.process.communicate(timeout=DEADLINE_S)[0]


def start_driver(
    source: str | Path,
    out: str | Path,
    address: str,
    *assignments: str,
    die_at: str = "never",
    prefix: Sequence[str] = (),
) -> Driver:
    """Start `annotate` with stub engines in a process of its own; `prefix` stands before its command."""
    command = [sys.executable, "-m", "tests.builders.driver", str(source), str(out), address, die_at, *assignments]
    search_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*prefix, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": search_path},
    )
    return Driver(process, str(out))


def open_attempts(location: RunLocation) -> list[Attempt]:
    begun, ended = parse_attempts(location)
    return sorted(begun - ended, key=lambda attempt: attempt.shard)


def num_receipts(location: RunLocation) -> int:
    return sum(1 for _ in location.list("_receipts"))


def receipts(location: RunLocation) -> list[Receipt]:
    """Return every receipt, including replaced generations, ordered by shard, then generation."""
    commits = sorted((shard, generation) for shard, generation, _ in list_commits(location))
    return list(read_receipts(location, commits))


def prove(
    out: str | Path, undisturbed: str | Path, *, fault: str, how: str, tries: int = 1, but: str = ""
) -> dict[str, Any]:
    """Nothing lost, nothing doubled, the same bytes: the two promises that every fault must leave standing.

    Returns the trial's row, as `record` writes it.

    Args:
        out: The run that was disturbed and has ended.
        undisturbed: The same run, left alone.
        fault: What happened, for the table of docs/records/reliability.md.
        how: How it was made to happen.
        tries: How often, in this run.
        but: Key of an image that is quarantined now, as it must be; no row of another image may differ.
    """
    location, reference = RunLocation.open(str(out)), RunLocation.open(str(undisturbed))
    report = verify_run(location)
    rows = Counter(image_ids(location))
    planned = set(image_ids(reference))
    content = partial(_rows_but, image=image_id(but)) if but else parts
    row = {
        "fault": fault,
        "how": how,
        "tries": tries,
        "images": len(planned),
        "lost": len(planned - rows.keys()),
        "doubled": sum(count - 1 for count in rows.values()),
        "bytes_equal": content(location) == content(reference),
        "verified": report.is_clean,
    }
    record(row)
    assert report.is_clean, report.problems
    assert report.num_accounted == report.num_images == report.annotated + report.empty + report.quarantined
    assert (row["lost"], row["doubled"], row["bytes_equal"]) == (0, 0, True), row
    return row


def _rows_but(location: RunLocation, image: str) -> dict[str, list[dict[str, Any]]]:
    tables = {name: OpenRun.at(location).table(name).to_pylist() for name in (IMAGES, MASKS, EXPRESSIONS)}
    return {name: [row for row in rows if row["image_id"] != image] for name, rows in tables.items()}


def record(row: dict[str, Any]) -> None:
    """Add a trial to the file that `PSEUDORIS_RELIABILITY` names, from which the page's table is made."""
    path = os.environ.get("PSEUDORIS_RELIABILITY")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


def image_ids(location: RunLocation) -> Iterator[str]:
    """Yield the id of every row of the images table, as a glob over it finds them."""
    for file in location.list(IMAGES):
        with location.open_input(f"{IMAGES}/{file.name}") as stream:
            yield from pq.read_table(stream, columns=["image_id"])["image_id"].to_pylist()
