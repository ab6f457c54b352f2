"""The forge's workflows: they call what a person calls, and a release publishes without a stored token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def commands(flow: str) -> list[str]:
    return [step["run"] for job in FLOWS[flow]["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_workflow_runs_what_ci_runs_and_targets_that_there_are(flow):
    assert ".ci/run" in commands(flow)
    asked = [
        word for line in commands(flow) if line.startswith("make ") for word in line.split()[1:] if "=" not in word
    ]
    assert set(asked) <= TARGETS


def test_a_release_is_published_by_trust_and_only_from_what_was_tested():
    jobs = FLOWS["release"]["jobs"]
    assert "secrets." not in str(FLOWS)
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert {name for name, job in jobs.items() if job.get("needs") != "build"} == {"build"}
    assert FLOWS["release"]["permissions"] == {"contents": "read"}
