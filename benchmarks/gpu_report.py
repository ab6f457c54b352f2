"""The rows of the GPU benchmark, with peak memory and the GPU's utilisation; each is printed and written at once."""

from __future__ import annotations

import gc
import math
import shutil
import statistics
import subprocess
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch

from benchmarks.measurement import median_seconds, peak_rss_bytes, wait_for, write_json

# Of a sample of `nvidia-smi`.
_INTERVAL_MS = 100


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One measured case.

    Attributes:
        case: What was measured.
        baseline_s: Median seconds of the plain reference; None where there is none.
        ours_s: Median seconds of ours.
        ratio: Baseline over ours.
        utilisation: Share of the time of ours in which the GPU ran a kernel, in [0, 1]; None where nothing tells.
        num_waits: How often the CPU waited for the GPU in a call, as far as torch tells; None on a CPU.
        peak_bytes: Most that was allocated on the GPU while ours ran, its model included; of the process, on a CPU.
        peak_rss_bytes: Highest resident size of the process so far.
        rate: Captions or images a second, as the note says.
        device: Name of the device.
        note: What a reader must know.
    """

    case: str
    baseline_s: float | None
    ours_s: float
    ratio: float | None
    utilisation: float | None
    num_waits: int | None
    peak_bytes: int
    peak_rss_bytes: int
    rate: float
    device: str
    note: str


class Bench:
    """Times work on one device, with its utilisation and its peak memory."""

    def __init__(self, device: torch.device, *, repeats: int, limit_s: float = math.inf) -> None:
        """Time on `device`, each work at most `repeats` times, and once more only before `limit_s` have passed."""
        self._device, self._repeats, self._limit_s = device, repeats, limit_s
        self.name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"

    def seconds(self, work: Callable[[], object], *, repeats: int | None = None) -> float:
        """Return the median seconds of `work`, up to the end of its last kernel; one more call warms up."""

        def synchronised() -> None:
            work()
            wait_for(self._device)

        return median_seconds(synchronised, repeats=repeats or self._repeats, warm_ups=1, limit_s=self._limit_s)

    def row(self, case: str, work: Callable[[], object], *, done: int, baseline_s: float | None, note: str) -> GpuRow:
        """Return the row of `work`, which does `done` captions or images a call."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with Utilisation(self._device) as used:
            ours_s = self.seconds(work)
        is_gpu = self._device.type == "cuda"
        return GpuRow(
            case=case,
            baseline_s=baseline_s,
            ours_s=ours_s,
            ratio=None if baseline_s is None else baseline_s / ours_s,
            utilisation=used.share,
            num_waits=count_waits(work) if is_gpu else None,
            peak_bytes=torch.cuda.max_memory_allocated() if is_gpu else peak_rss_bytes(),
            peak_rss_bytes=peak_rss_bytes(),
            rate=done / ours_s,
            device=self.name,
            note=note,
        )


def count_waits(work: Callable[[], object]) -> int:
    """Return how often the CPU waits for the GPU in a call of `work`, as far as torch tells."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


class Report:
    """The rows so far: each is printed and written as soon as it is there, so that a failure costs one row."""

    def __init__(self, json_path: Path | None) -> None:
        self._path = json_path
        self._rows: list[GpuRow] = []
        self.failures: list[str] = []

    def take(self, part: str, measure: Callable[[], Iterable[GpuRow]]) -> None:
        """Add the rows of a part; where it disagrees or runs out of memory, keep the reason for the end."""
        try:
            for row in measure():
                self.add(row)
        except (ValueError, torch.OutOfMemoryError) as error:
            self.failures.append(f"{part} ({error})")
            print(f"{part}: {error}", flush=True)

    def add(self, row: GpuRow) -> None:
        """Print the row, and write all of them as a JSON list where a path was given."""
        if not self._rows:
            print(f"device: {row.device}; torch {torch.__version__}")
            print(
                f"{'case':<72} {'baseline s':>10} {'ours s':>9} {'ratio':>6} {'GPU':>5} {'waits':>6} "
                f"{'peak MiB':>9} {'a second':>9}"
            )
        self._rows.append(row)
        baseline = "–" if row.baseline_s is None else f"{row.baseline_s:.3f}"
        ratio = "–" if row.ratio is None else f"{row.ratio:.1f}"
        waits = "–" if row.num_waits is None else str(row.num_waits)
        used = "–" if row.utilisation is None else f"{row.utilisation:.0%}"
        print(
            f"{row.case:<72} {baseline:>10} {row.ours_s:>9.3f} {ratio:>6} {used:>5} {waits:>6} "
            f"{row.peak_bytes / 2**20:>9.0f} {row.rate:>9.2f}\n    {row.note}",
            flush=True,
        )
        write_json([asdict(one) for one in self._rows], self._path)


class Utilisation:
    """While it is open, `nvidia-smi` samples the share of time in which a kernel ran.

    Attributes:
        share: Mean of the samples in [0, 1]; None on a CPU, without the tool, or for less than one interval.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare to watch `device`."""
        self.share: float | None = None
        self._device = device
        self._watcher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the watcher where there is something to watch."""
        if self._device.type == "cuda" and shutil.which("nvidia-smi"):
            uuid = torch.cuda.get_device_properties(self._device).uuid
            command = ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._watcher = subprocess.Popen(
                [*command, f"--loop-ms={_INTERVAL_MS}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(self, *raised: object) -> None:
        """End the watcher and read what it wrote."""
        if self._watcher is None:
            return
        self._watcher.terminate()
        self.share = mean_share(self._watcher.communicate()[0])


def mean_share(written: str) -> float | None:
    """Return the mean of percentages, one a line, as a share; lines that are none (`[N/A]`) do not count."""
    samples = [float(line) for line in written.split() if line.strip().isdigit()]
    return statistics.fmean(samples) / 100 if samples else None
