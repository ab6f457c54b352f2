import json

import typer
from typer.testing import CliRunner

from benchmarks.oracle.__main__ import main
from benchmarks.oracle.evaluation import TRUTH_SUFFIX
from benchmarks.oracle.report import HEADLINE


def test_the_command_measures_real_scenes_and_writes_every_figure(tmp_path):
    app = typer.Typer()
    app.command()(main)
    arguments = ["--scenes", "1", "--processes", "1", "--split", "development", "--tau", "1.5", "--json"]
    outcome = CliRunner().invoke(app, [*arguments, str(tmp_path / "figures.json")])
    assert outcome.exit_code == 0, outcome.output
    report = json.loads((tmp_path / "figures.json").read_text())
    assert {name + suffix for name in HEADLINE for suffix in ("", TRUTH_SUFFIX)} <= report.keys()
    assert report["mask_recall_75" + TRUTH_SUFFIX] == 1.0
    assert report["seconds_per_image"] > 0
    assert report["yield_filtered@1.5"] <= report["yield_filtered"]
    assert "1 development scenes" in outcome.output
