"""How busy the GPU is while something runs, as its driver's own tool reports it."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from typing import Self

import torch

_INTERVAL_MS = 100


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
