"""Which models made a run, also one that was combined: what a figure may be circular by."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning_fabric import Fabric

from pseudoris.files.location import RunLocation
from pseudoris.schemas.run_records import Identity
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.training.evaluation.held_out import begin_validation, models_of, pixels_of
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from tests.store.builders import annotated, commit_images, empty, make_entries, make_identity, start_run


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


def test_runs_that_read_deep_pixels_differently_are_told_with_how_predict_reads_them(tmp_path, caplog):
    runs = [(name, RunLocation.open(str(tmp_path / name))) for name in ("v1", "v2")]
    for high, (_, run) in enumerate(runs, 1):
        commit_images(run, start_run(run, make_entries(1, 1), f"images.window=[0, {high}]"), annotated)
        write_manifest(run)
    combine(runs, both := RunLocation.open(str(tmp_path / "both")))
    (tmp_path / "out").mkdir()
    folder = TrainingFolder(tmp_path / "out")
    begin_validation(["a" * 64], [both.root], (), None, folder, Fabric(accelerator="cpu"))
    assert "`predict` reads pictures as the first one: bits auto, window (0.0, 1.0)" in caplog.text
    assert pixels_of(tmp_path / "out").window == (0.0, 1.0)
