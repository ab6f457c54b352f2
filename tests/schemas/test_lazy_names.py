"""What is imported by whom: models by those that run them, and by nobody else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pseudoris.workers import masks
from pseudoris.workers.masks.generator import SamProposer

HEAVY = ("torch", "torchvision", "open_clip", "segment_anything")


def loaded_by(modules: tuple[str, ...]) -> dict[str, list[str]]:
    """Those of HEAVY that are loaded after each import, one import after the other in a fresh interpreter."""
    code = (
        "import importlib, json, sys\n"
        "loaded = lambda: [name for name in sys.argv[1].split() if name in sys.modules]\n"
        "print(json.dumps({module: importlib.import_module(module) and loaded() for module in sys.argv[2:]}))"
    )
    command = [sys.executable, "-c", code, " ".join(HEAVY), *modules]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# Ray starts a process for each reader, committer and driver: torch costs one seconds, and the models many more.
@pytest.mark.slow
def test_who_runs_no_model_loads_no_torch() -> None:
    modules = (
        "pseudoris.workers.faults.quarantine",
        "pseudoris.workers.faults.tolerant_stages",
        "pseudoris.workers.faults.subprocess_stages_main",
        "pseudoris.store.runs.commit",
        "pseudoris.pipeline.shard_tasks",
        "pseudoris.pipeline.stage_actor",
        "pseudoris.pipeline.fan_out",
        "pseudoris.pipeline.annotation",
        "pseudoris.cli.main",
    )
    assert loaded_by(modules) == {module: [] for module in modules}


@pytest.mark.slow
def test_kernels_of_a_package_come_without_its_engines() -> None:
    modules = ("workers.masks.rle", "workers.filtering.head_nouns", "workers.composing.composer")
    loaded = loaded_by(tuple(f"pseudoris.{module}" for module in modules))
    assert {name for names in loaded.values() for name in names} <= {"torch"}


def test_an_engine_is_found_when_it_is_asked_for() -> None:
    assert masks.SamProposer is SamProposer
    with pytest.raises(AttributeError, match=r"module 'pseudoris.workers.masks' has no attribute 'Proposer'"):
        _ = masks.Proposer
