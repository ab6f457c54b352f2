"""The truth that a run is compared with, by the name that `--truth` gives it."""

from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.evaluation.human_truth import beside, open_truth
from tests.builders.scene_runs import scene_run, scenes


@pytest.fixture
def disk_run(tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))
    scene_run(run, scenes(1), source=str(tmp_path / "images"))
    return run


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("/data/demo/images", "/data/demo/truth.json"),
        ("/data/demo/images/", "/data/demo/truth.json"),
        ("s3://bucket/demo/images", "s3://bucket/demo/truth.json"),
        ("s3://bucket/images/", "s3://bucket/truth.json"),
        ("images", "/truth.json"),
    ],
)
def test_the_truth_is_looked_for_beside_the_images(source, address):
    assert beside(source, SceneTruth.file_name) == address


def test_a_bucket_as_a_whole_has_nothing_beside_it(disk_run):
    header = require_header(disk_run).model_copy(update={"source": "s3://bucket"})
    with pytest.raises(ConfigError, match=r"no file at .*synthworld:FILE"):
        open_truth("synthworld", header, SceneTruth)
