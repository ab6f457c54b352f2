"""Measures and prints benchmarks: medians, ratios, peak memory, a table and its JSON."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
    """Return the highest resident size that this process had, or has had since `reset_peak`, in bytes; Linux."""
    # Not getrusage's: that of a started process begins with the peak of the one that started it.
    fields = Path("/proc/self/status").read_text(encoding="ascii").split()
    return int(fields[fields.index("VmHWM:") + 1]) * 1024


def reset_peak() -> int:
    """Forget the highest resident size that this process had, and return its size now, in bytes; Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_rss_bytes()


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def wait_for(device: torch.device) -> None:
    """Return once a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        import torch

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
    # Here, because a job that loads no torch is measured too.
    import torch

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
