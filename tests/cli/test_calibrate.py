"""`pseudoris calibrate`: YAML that a run takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cli.main import app
from schemas.config_loading import load_config
from store.location import RunLocation
from tests.builders.scene_runs import scene_run, scenes, scored, truth_bytes

KNOWN = scenes(8)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "demo"
    scene_run(RunLocation.open(str(folder / "run")), KNOWN, source=str(folder / "images"), change=scored)
    (folder / "truth.json").write_bytes(truth_bytes(dict(KNOWN)))
    return folder


def invoke(*arguments: object):
    words = ["calibrate", *(str(each) for each in arguments)]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("truth", [(), ("--truth", "synthworld")])
def test_the_yaml_is_laid_over_a_preset(demo, tmp_path, truth):
    file = tmp_path / "confidence.yaml"
    found = invoke(demo / "run", *truth, "--yield", 1, "--coverage", 0.1, "--to", file)
    assert found.stdout.startswith(file.read_text())
    config = load_config("tiny", file, ["captions.listening={}"])
    assert config.filtering.confidence is not None
    assert config.filtering.confidence.needs_listener
    assert config.filtering.tau == 0.0
    assert config.filtering.keep[0].column == "confidence"
    assert ("of the objects" in found.output) == bool(truth)
    assert "on these 8 images it keeps" in found.output


def test_what_cannot_be_reached_is_said(demo):
    found = invoke(demo / "run", "--truth", "synthworld", "--coverage", 1.0, "--images", 4)
    assert "no bounds reach that coverage and yield" in found.output
    assert "on these 4 images" in found.output


def test_a_mistake_ends_in_one_message(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cli", "calibrate", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
