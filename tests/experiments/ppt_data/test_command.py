"""The command at its smallest, with the shipped models: its rows, and the file that it writes them to."""

import json

import pytest
import typer
from typer.testing import CliRunner

from experiments.ppt_data import __main__ as command

ROWS = ("peak, by agreement", "peak, by predicted IoU", "points", "peak, by agreement, feature surgery")


def _run(*arguments: object):
    app = typer.Typer()
    app.command()(command.main)
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the data sets: what one call has made the next one finds."""
    return tmp_path_factory.mktemp("ppt_data")


@pytest.mark.long
def test_every_grounding_and_the_pairs_are_measured_and_written(folder, tmp_path) -> None:
    figures, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"

    outcome = _run(folder, "--objects", 20, "--scenes", 2, "--json", figures, "--sheet", sheet)

    assert outcome.exit_code == 0, outcome.output
    found = json.loads(figures.read_text())
    assert (found["images"], found["scenes"]) == (20, 2)
    assert tuple(found["objects"]) == ROWS
    for name, row in found["objects"].items():
        # The page's figures of 200 images are 0.80 to 0.87.
        assert 0.6 < row["miou"] <= 1
        assert row["above_half"] >= 0.7
        assert f"{name}: mIoU {row['miou']:.3f}, above 0.5 {row['above_half']:.2f}" in outcome.output
    pairs = found["pairs"]
    assert pairs["texts"] > 2
    assert pairs["without"] + pairs["single"] + pairs["several"] == pytest.approx(1)
    assert pairs["pseudo_masks"] >= 2
    assert sheet.stat().st_size > 0
