"""What is imported by whom: models by those that run them, and by nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pseudoris.workers import masks
from pseudoris.workers.masks.proposer import SamProposer

HEAVY = ("torch", "torchvision", "open_clip", "segment_anything")


def loaded_by(module: str) -> list[str]:
    """Those of HEAVY that importing a module loads, in a fresh interpreter."""
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


# Ray starts a process for each reader, committer and driver: torch costs one seconds, and the models many more.
@pytest.mark.parametrize(
    "module",
    [
        "pseudoris.pipeline.annotation",
        "pseudoris.pipeline.shard_tasks",
        "pseudoris.pipeline.stage_actor",
        "pseudoris.pipeline.verify_tasks",
        "pseudoris.store.runs.commit",
        "pseudoris.workers.faults.quarantine",
        "pseudoris.workers.faults.tolerant_stages",
        "pseudoris.workers.faults.subprocess_stages_main",
        "pseudoris.cli.main",
    ],
)
def test_who_runs_no_model_loads_no_torch(module: str) -> None:
    assert loaded_by(module) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["pseudoris.workers.masks.rle", "pseudoris.workers.filtering.head_nouns", "pseudoris.workers.composing.composer"],
)
def test_kernels_of_a_package_come_without_its_engines(module: str) -> None:
    assert not {"torchvision", "open_clip", "segment_anything"} & set(loaded_by(module))


def test_an_engine_is_found_when_it_is_asked_for() -> None:
    assert masks.SamProposer is SamProposer
    with pytest.raises(AttributeError, match=r"module 'pseudoris.workers.masks' has no attribute 'Proposer'"):
        _ = masks.Proposer
