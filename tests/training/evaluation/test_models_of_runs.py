"""Which models made a run, also one that was combined: what a figure may be circular by."""

from __future__ import annotations

from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.schemas.run_records import Identity
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.training.evaluation.held_out import models_of
from tests.store.builders import commit_images, empty, make_identity, start_run


@pytest.fixture
def run(tmp_path):
    def write(name: str, identity: Identity, origin: str = "annotate") -> RunLocation:
        location = RunLocation.open(str(tmp_path / name))
        header = start_run(location, None, identity=identity, origin=origin, created_utc=f"2026-01-01 {name}")
        commit_images(location, header, empty)
        write_manifest(location)
        return location

    return write


def combined(folder: Path, **runs: RunLocation) -> RunLocation:
    target = RunLocation.open(str(folder / f"combined {'-'.join(runs)}"))
    combine(list(runs.items()), target)
    return target


def test_those_of_all_runs_that_were_combined_count_and_none_is_known_if_one_is_not(run, tmp_path):
    one = run("one", make_identity(weights={"propose": "a" * 64}))
    other = run("other", make_identity(weights={"propose": "b" * 64, "caption": "c" * 64}))
    human = run("human", make_identity(method={"import": {"format": "coco"}}, weights={}), "import")
    found = models_of(combined(tmp_path, one=one, other=other, human=human))
    assert set(found.values()) == {"a" * 64, "b" * 64, "c" * 64}
    assert models_of(combined(tmp_path, human=human)) == {}
    inner = combined(tmp_path, x=one, human=human)
    assert set(models_of(combined(tmp_path, inner=inner, y=other)).values()) == set(found.values())
    lacking = run("lacking", make_identity(weights={}))
    assert models_of(combined(tmp_path, one=one, lacking=lacking)) is None
