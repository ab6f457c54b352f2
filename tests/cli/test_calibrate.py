"""`pseudoris calibrate`: YAML that a run takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.store.location import RunLocation
from tests.builders.scene_runs import said, scene_run, scenes, scored, truth_bytes

KNOWN = scenes(8)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "demo"
    scene_run(RunLocation.open(str(folder / "run")), KNOWN, source=str(folder / "images"), change=scored)
    (folder / "truth.json").write_bytes(truth_bytes(dict(KNOWN)))
    return folder


def composed(image, *, a_mask):
    """Return the image with so many expressions that a composer said of each of its masks."""
    told = [
        replace(said(mask.mask_id, f"the leftmost thing {n}"), samples=(), source=SOURCE_COMPOSER, kind="position")
        for mask in image.masks
        for n in range(a_mask)
    ]
    return replace(image, expressions=(*image.expressions, *told))


def invoke(*arguments: object):
    words = ["calibrate", *(str(each) for each in arguments)]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("truth", [(), ("--truth", "synthworld", "--coverage", 0.1)])
def test_the_yaml_is_laid_over_a_preset(demo, tmp_path, truth):
    file = tmp_path / "confidence.yaml"
    found = invoke(demo / "run", *truth, "--yield", 1, "--to", file)
    assert found.stdout.startswith(file.read_text())
    config = load_config("tiny", file, ["captions.listening={}"])
    assert config.filtering.confidence is not None
    assert config.filtering.confidence.needs_listener
    assert config.filtering.tau == 0.0
    assert config.filtering.keep[0].column == "confidence"
    assert ("; accuracy" in found.output) == bool(truth)
    lines = config.filtering.pair_weight
    assert (lines is not None and lines.drawn is not None and lines.composed is None) == bool(truth)
    assert "on these 8 images, it keeps" in found.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "{tmp}/no/x.yaml"], "The folder .*/no for x.yaml does not exist. Create it first"),
        (["--to", "{tmp}"], "is a folder. Give a file name in it"),
        (["--coverage", "0.65"], "--coverage 0.65 needs --truth. Give --truth, or leave --coverage out"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_read(tmp_path, words, message):
    # There is no run: nothing is read before the refusal.
    with pytest.raises(ConfigError, match=message):
        invoke(tmp_path / "none", *(each.format(tmp=tmp_path) for each in words))
