"""Students as an experiment trains them: an arm is what one learns from, and each arm is trained with several seeds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from benchmarks.quality.jobs import run_jobs
from benchmarks.quality.options import Options
from training.learning import open_fabric
from training.learning.folder import SUMMARY_NAME
from training.student.config import load_student_config
from training.student.training import StudentRequest, train_student

# Of a student's training; two minutes of one core.
NUM_STEPS: Final = 1000
QUICK_STEPS: Final = 120
NUM_SEEDS: Final = 3


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        runs: What is learnt from.
        val: Whose expressions are asked at the end.
        human: Mixed in: every mask of it counts an epoch once, as every mask of `runs` does.
        assignments: Of the student's settings, as `--set` takes them.
        seed: Of weights and order.
    """

    runs: tuple[str, ...]
    val: str
    human: str | None = None
    assignments: tuple[str, ...] = ()
    seed: int = 0

    def digest(self) -> str:
        """Return a name that says all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Job:
    arm: Arm
    folder: Path


def train_arms(options: Options, arms: Mapping[str, Sequence[Arm]], *, shown: str) -> dict[str, dict[str, Any]]:
    """Return the figures of each named group of arms, trained unless they stand in OUT: `summarise` of its seeds."""
    wanted = {arm.digest(): arm for group in arms.values() for arm in group}
    folders = {digest: options.out / "students" / digest for digest in wanted}
    missing = [
        _Job(arm, folders[digest]) for digest, arm in wanted.items() if not (folders[digest] / SUMMARY_NAME).exists()
    ]
    if missing:
        run_jobs(_train, missing, options.processes, shown=shown)
    found = {digest: json.loads((folder / SUMMARY_NAME).read_text())["figures"] for digest, folder in folders.items()}
    return {name: summarise([found[arm.digest()] for arm in group]) for name, group in arms.items()}


def summarise(seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return by figure the mean over seeds, their standard deviation (of a sample; 0 of one) and the values."""
    return {
        name: {
            "mean": round(fmean(values), 5),
            "std": round(stdev(values), 5) if len(values) > 1 else 0.0,
            "values": [round(value, 5) for value in values],
        }
        for name in seeds[0]
        for values in [[figures[name] for figures in seeds]]
    }


def seeded(options: Options, arm: Arm, *, num_seeds: int = NUM_SEEDS) -> list[Arm]:
    """Return the arm with each seed, and with the steps of this run."""
    steps = f"training.num_steps={options.pick(NUM_STEPS, QUICK_STEPS)}"
    count = 1 if options.is_quick else num_seeds
    return [
        Arm(arm.runs, arm.val, arm.human, (*arm.assignments, steps), options.seed + number) for number in range(count)
    ]


def mean_and_deviation(figures: Mapping[str, Any], name: str = "miou") -> str:
    """Return a figure as it stands in a table."""
    figure = figures[name]
    return f"{figure['mean']:.3f} ± {figure['std']:.3f}"


def _train(job: _Job) -> None:
    """Train one arm; runs in a child process."""
    config = load_student_config("tiny", None, [*job.arm.assignments, f"training.seed={job.arm.seed}"])
    if (job.folder / "config.json").exists() and not (job.folder / "checkpoint.pt").exists():
        shutil.rmtree(job.folder)
    request = StudentRequest(
        config=config,
        runs=job.arm.runs,
        out=job.folder,
        val=job.arm.val,
        human=job.arm.human,
        is_resuming=(job.folder / "checkpoint.pt").exists(),
    )
    train_student(request, open_fabric(config.training))
