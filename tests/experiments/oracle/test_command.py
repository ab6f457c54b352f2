"""The command measures real scenes; its JSON and its table hold every figure."""

import io
import json

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from experiments.oracle.__main__ import HEADLINE, figures, main, report_table
from experiments.oracle.scene_counts import TRUTH_SUFFIX, EvaluationOptions
from pseudoris.training.evaluation.bootstrap import ImageBootstrap


@pytest.mark.slow
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


def bootstrap():
    scene = {name + suffix: (3.0, 4.0) for name in HEADLINE for suffix in ("", TRUTH_SUFFIX)}
    return ImageBootstrap([scene | {"accuracy_beam": (1.0, 4.0), "seconds_per_image": (0.5, 1.0)}] * 3)


def test_the_json_holds_every_figure_its_interval_and_the_steps():
    report = json.loads(json.dumps(figures(bootstrap())))
    for name in HEADLINE:
        assert report[name + TRUTH_SUFFIX] == 0.75
        assert len(report[f"{name}_interval"]) == 2
    assert report["seconds_per_image"] == 0.5
    assert report["accuracy_distinctive_minus_beam"] == 0.5


def test_the_table_shows_both_kinds_of_mask_and_the_gain_of_each_step():
    console = Console(file=io.StringIO(), width=140)
    console.print(report_table(bootstrap(), EvaluationOptions(num_scenes=3)))
    text = console.file.getvalue()
    assert "3 test scenes" in text
    assert all(name in text for name in HEADLINE)
    assert "+0.500" in text
