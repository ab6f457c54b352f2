"""Measures and prints benchmarks: medians, ratios, peak memory, a table and its JSON.

A process can be watched from outside while it works: its memory and CPU time, and those of the Ray head it started.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

_PERIOD_S: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# What a driver that starts Ray also starts, and what on a cluster the head node pays for.
_HEAD_NAMES: Final = frozenset({"gcs_server", "raylet"})


@dataclass(frozen=True, slots=True)
class Row:
    """One measured case.

    Attributes:
        case: What was measured.
        baseline_s: Median seconds of the other side; None where there is none.
        ours_s: Median seconds of ours.
        peak_rss_bytes: Highest resident size of the process so far: it never falls within a run.
        note: What a reader must know, such as a rate or a figure that was counted and not timed.
    """

    case: str
    baseline_s: float | None
    ours_s: float
    peak_rss_bytes: int
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Baseline over ours: above 1 ours is faster."""
        return None if self.baseline_s is None else self.baseline_s / self.ours_s


def median_seconds(
    work: Callable[[], object], *, repeats: int = 5, warm_ups: int = 1, limit_s: float = math.inf
) -> float:
    """Return the median wall seconds of `repeats` calls after `warm_ups` that do not count.

    Once the timed calls have taken `limit_s`, they are enough.
    """
    for _ in range(warm_ups):
        work()
    taken: list[float] = []
    for _ in range(repeats):
        if taken and sum(taken) >= limit_s:
            break
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_rss_bytes() -> int:
    """Return the highest resident size that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def wait_for(device: torch.device) -> None:
    """Return once a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_weights(preset: str, stages: Sequence[str]) -> list[str]:
    """Return the assignments that give `stages` random weights; none for `tiny`, whose weights are in the package.

    What else a run of `paper` must bring, an instance prior and a parser, is left out.
    """
    if preset == "tiny":
        return []
    without = {"masks": ["masks.prior.kind=none"], "filtering": ["filtering.nouns=rules"]}
    return [word for stage in stages for word in (f"{stage}.weights={{uri: 'random:0'}}", *without.get(stage, ()))]


def write_json(rows: Sequence[Mapping[str, object]], path: Path | None) -> None:
    """Write `rows` as a JSON list, where a path is given."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """Return what the figures were measured on; never a host's name."""
    return (
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}"
    )


def report(title: str, rows: Sequence[Row], json_path: Path | None) -> None:
    """Print `rows` as a table, and write them as a JSON list where a path is given."""
    # Here, because a machine that only measures may lack it.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title} ({machine()})", title_justify="left")
    for header in ("case", "baseline s", "ours s", "ratio", "peak RSS MiB", "note"):
        table.add_column(header, justify="left" if header in ("case", "note") else "right")
    for row in rows:
        table.add_row(
            row.case,
            "–" if row.baseline_s is None else f"{row.baseline_s:.3f}",
            f"{row.ours_s:.3f}",
            "–" if row.ratio is None else f"{row.ratio:.1f}",
            f"{row.peak_rss_bytes / 2**20:.0f}",
            row.note,
        )
    Console().print(table)
    write_json([{**asdict(row), "ratio": row.ratio} for row in rows], json_path)


def digest_of(said: object) -> str:
    """Return a short name of JSON values, 16 hexadecimal digits; a part of it serves where few are told apart."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had at a moment.

    Attributes:
        rss_bytes: Resident.
        cpu_s: Seconds of CPU since its start.
        private_bytes: Resident, without files and shared memory. Every worker maps Ray's object store, page by page as
            it touches them: the sum of `rss_bytes` over workers counts a page of it as often.
    """

    rss_bytes: int = 0
    cpu_s: float = 0.0
    private_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading, `time.monotonic` of it, of the process and of Ray's own below it, and of workers that are watched."""

    at_s: float
    driver: Usage
    head: Usage
    workers: Usage = Usage()


@dataclass(slots=True)
class Watched:
    """What a process answered, and the readings taken of it.

    Attributes:
        answer: The JSON of its last line.
        samples: In time.
    """

    answer: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """Return the readings of a span; never none: the nearest one where it was shorter than the period."""
        inside = [sample for sample in self.samples if start_s <= sample.at_s <= end_s]
        return inside or [min(self.samples, key=lambda sample: abs(sample.at_s - start_s))]


def run_watched(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], *, has_workers: bool = False
) -> Watched:
    """Run `python -m module` to its end, and return its answer and how it grew; with `has_workers`, its workers too.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True) as process:
        samples: list[Sample] = []
        watcher = threading.Thread(target=_watch, args=(process, samples, has_workers), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(json.loads(output.splitlines()[-1]), samples)


def _watch(process: subprocess.Popen[str], samples: list[Sample], has_workers: bool) -> None:
    while process.poll() is None:
        try:
            samples.append(_sample(process.pid, has_workers=has_workers))
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(_PERIOD_S)


def _sample(pid: int, *, has_workers: bool) -> Sample:
    heads = [child for child in _children(pid) if _name(child) in _HEAD_NAMES]
    # Ten times a second: a benchmark that does not ask for them is not slowed by the search.
    workers = [worker for head in heads for worker in descendants(head)] if has_workers else []
    return Sample(time.monotonic(), usage(pid), _total(heads), _total(workers))


def _total(pids: Sequence[int]) -> Usage:
    """Return what those of the processes that still live have together."""
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(usage(pid))
    return Usage(*(sum(values) for values in zip(*map(astuple, found), strict=True))) if found else Usage()


def descendants(pid: int) -> list[int]:
    """Return the living processes that a process has started, theirs too."""
    children = _children(pid)
    return children + [below for child in children for below in descendants(child)]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            # A thread that has ended since it was listed.
            continue
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process: a page that n processes share counts as 1/n; 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def usage(pid: int) -> Usage:
    """Return what a living process has now."""
    # Fields after the name, which stands in parentheses and may hold anything: utime and stime.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return Usage(resident * _PAGE_BYTES, cpu_s, (resident - shared) * _PAGE_BYTES)
