"""`pseudoris train ppt` and `pseudoris predict` of it, as a user meets them, on data in REFER's form."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.builders.human import write_small_refer
from tests.store.builders import start_run
from tests.training.ppt.builders import small_words


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A REFER dataset, imported, paired and trained on, none of its masks read: folder, images, command and output."""
    folder = tmp_path_factory.mktemp("ppt é")
    annotation, images = write_small_refer(folder)
    human, pairs = folder / "human", folder / "h"
    assert invoke("import", annotation, images, human, "--workers", "1", "--embed-images").exit_code == 0
    # Of random weights: so that some texts have one pseudo-mask, and some have several.
    of_pairs = ["--set", "filtering.weights.uri=random:0", "--set", "pairs.min_peak=0.98"]
    assert invoke("ppt", "pairs", human, pairs, *of_pairs).exit_code == 0
    words = [each for word in small_words(folder / "models") for each in ("--set", word)]
    arguments = ["train", "ppt", "--h", pairs, "--val", human, "--out", folder / "out"]
    arguments += ["--set", "curriculum.epochs_factor=0.5", "--seed", "2", *words]
    return folder, images, arguments, invoke(*arguments)


@pytest.mark.slow
def test_refer_data_go_from_import_to_a_trained_model(trained) -> None:
    folder, _, _, result = trained
    assert result.exit_code == 0, result.output
    for words in ("semantic", "h_sem", "pairs per epoch", "parameters", "mIoU", "P@0.3", "P@0.9", "pseudoris predict"):
        assert words in result.output
    settings = json.loads((folder / "out" / "config.json").read_text())
    assert "undecided pairs now have a referent" in result.stderr
    # Of the import the images and sentences alone, through `ppt pairs`: no human mask is trained on.
    assert {name for name, runs in settings["runs"].items() if runs} == {"h"}
    assert settings["learner"] == "ppt"
    assert settings["config"]["training"]["seed"] == 2


@pytest.mark.slow
def test_a_training_before_its_first_round_is_done_says_how_to_go_on(trained, tmp_path) -> None:
    folder, images, _, _ = trained
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(folder / "out" / "config.json", begun)
    image = next(images.rglob("*.png"))
    with pytest.raises(
        ConfigError, match=r"has no checkpoint yet \(for PPT: no finished round\). Continue it: .* --resume\.$"
    ):
        invoke("predict", image, "a cup", "--model", begun, "--out", tmp_path / "seen.png")


@pytest.mark.parametrize("option", ["--d-sem", "--d-ref", "--h", "--annotated", "--val"])
def test_a_training_is_not_written_into_a_run_that_it_reads(tmp_path, option) -> None:
    run = tmp_path / "run"
    start_run(RunLocation.open(str(run)))
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match=r"--out .* is inside the run"):
        invoke("train", "ppt", option, run, "--out", run)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is nothing to train on. Give --d-sem"),
        (["--d-sem", "{tmp}/none"], "there is no run at"),
        (["--preset", "papr"], "The ppt has no preset 'papr'. The presets are paper, tiny; did you mean 'paper'"),
        (["--set", "generator.widht=3"], "generator.widht"),
        (["--set", "training.optimiser=adam", "--set", "training.weight_decay=0.1"], "adam has no decay"),
        (["--set", "data.pairs_per_batch=5", "--set", "data.pairs_per_image=2"], "5 is not a multiple of"),
    ],
)
def test_a_users_mistake_is_an_error_with_a_remedy(tmp_path, arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke("train", "ppt", "--out", tmp_path / "out", *(word.format(tmp=tmp_path) for word in arguments))
