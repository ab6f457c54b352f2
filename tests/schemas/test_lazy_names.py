"""What is imported by whom: models by those that run them, and by nobody else."""

from __future__ import annotations

import json

import pytest

from pseudoris.workers import masks
from pseudoris.workers.masks.generator import SamProposer
from tests.builders.command import python_says

HEAVY = ("torch", "torchvision", "open_clip", "segment_anything")


# Ray starts a process for each reader, committer and driver: torch costs one seconds, and the models many more.
@pytest.mark.slow
def test_who_runs_no_model_loads_no_torch_and_kernels_of_a_package_come_without_its_engines() -> None:
    light = (
        *("workers.faults.quarantine", "workers.faults.tolerant_stages", "workers.faults.subprocess_stages_main"),
        *("store.runs.commit", "pipeline.shard_tasks", "pipeline.executor", "pipeline.fan_out"),
        *("pipeline.annotation", "cli.main"),
    )
    kernels = ("primitives.rle", "primitives.head_nouns", "workers.composing.composer")
    # One import after the other in a fresh interpreter, and which heavy modules are loaded after each.
    code = (
        "import importlib, json, sys\n"
        "loaded = lambda: [name for name in sys.argv[1].split() if name in sys.modules]\n"
        "print(json.dumps([importlib.import_module(f'pseudoris.{name}') and loaded() for name in sys.argv[2:]]))"
    )
    loaded = json.loads(python_says(code, " ".join(HEAVY), *light, *kernels))
    assert dict(zip(light, loaded, strict=False)) == {name: [] for name in light}
    assert set(loaded[-1]) <= {"torch"}


def test_an_engine_is_found_when_it_is_asked_for() -> None:
    assert masks.SamProposer is SamProposer
    with pytest.raises(AttributeError, match=r"module 'pseudoris.workers.masks' has no attribute 'Proposer'"):
        _ = masks.Proposer
