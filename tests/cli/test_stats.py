"""`pseudoris stats` as a user meets it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.store.location import RunLocation
from tests.builders.scored_runs import scored_run
from tests.store.builders import start_run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("stats") / "run"
    scored_run(RunLocation.open(str(out)), has_humans=True)
    return str(out)


def invoke(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["stats", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_figure_is_shown(out):
    shown = invoke(out, "--top", "2")
    for words in (
        *("20 of 20 images committed", "4 quarantined", "from the tables of 4 of 4 shards", "masks an image"),
        *("kept a mask", "words, kept", "uniqueness", "correctness", "distinctiveness", "log_prob", "median"),
        *("by source", "human", "by decoder", "top_p", "by crop", "context_1.2", "most frequent kept expressions"),
    ):
        assert words in shown


def test_json_holds_the_same_figures(out):
    tree = json.loads(invoke(out, "--json", "--sample", "2", "--top", "1"))
    assert tree["totals"]["images"] == 20
    assert tree["num_shards_read"] == 2
    assert tree["distributions"]["masks an image"]["quantiles"]["1"] == 3
    assert set(tree["groups"]) == {"source", "decoder", "crop"}
    human = tree["groups"]["source"]["human"]
    assert human["share"] == 1.0
    assert set(human) == {"candidates", "kept", "share"}
    assert set(tree["groups"]["crop"]["masked"]) == {"draws", "kept", "share"}
    assert len(tree["top"]) == 1
    assert json.loads(invoke(out, "--json", "--every"))["num_shards_read"] == 4


def test_a_run_without_a_commit_shows_no_figure(tmp_path):
    start_run(RunLocation.open(str(tmp_path / "run")))
    shown = invoke(str(tmp_path / "run"))
    assert "0 of 12 images committed" in shown
    assert "–" in shown
