"""`pseudoris train student` and `pseudoris predict` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from tests.training.chooser.builders import chooser_words, imported_run


def invoke(*arguments: str):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small run, a training on it, and what the command printed."""
    folder = tmp_path_factory.mktemp("a student é")
    run = imported_run(folder, 2)
    words = [each for word in chooser_words(folder / "candidates") for each in ("--set", word)]
    arguments = ["train", "student", run, "--val", run, "--out", folder / "out", "--epochs", "6", "--seed", "2", *words]
    return folder, arguments, invoke(*arguments)


def test_a_training_ends_with_its_figures_and_the_next_command(trained):
    folder, _, result = trained
    assert result.exit_code == 0, result.output
    for words in ("12, 12 of them now", "parameters", "mIoU", "oIoU", "P@0.5", "P@0.9", "pseudoris predict IMAGE"):
        assert words in result.output
    settings = json.loads((folder / "out" / "config.json").read_text())
    assert settings["config"]["training"]["num_steps"] == 12
    assert settings["config"]["training"]["seed"] == 2


def test_a_prediction_is_a_picture_with_the_text_below(trained):
    folder, _, _ = trained
    image = next((folder / "images").iterdir())
    out, mask = folder / "seen.png", folder / "mask.png"
    result = invoke(
        "predict", image, "The  small STAR on the left.", "--model", folder / "out", "--out", out, "--mask", mask
    )
    assert result.exit_code == 0, result.output
    for words in ("the small star on the left", "masks that SAM proposes", "probability of this mask"):
        assert words in result.output
    with Image.open(image) as before, Image.open(out) as picture, Image.open(mask) as alone:
        factor = picture.width // before.width
        assert picture.width == factor * before.width >= 480
        assert picture.height > factor * before.height
        assert alone.size == before.size
        assert set(np.unique(np.asarray(alone))) <= {0, 255}
    again = invoke(
        "predict", image, "the small star on the left", "--model", folder / "out" / "checkpoint.pt", "--out", out
    )
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{image}", " . ", "--model", "{out}"], "The expression is empty"),
        (["{image}", "a", "--model", "{data}"], "There is no checkpoint at"),
        (["{image}", "a", "--model", "{image}"], "is not a checkpoint of a training"),
        (["{data}/none.png", "a", "--model", "{out}"], "cannot be read .*Give a file"),
        (["{out}/config.json", "a", "--model", "{out}"], "cannot be used: "),
        (["{image}", "a", "--model", "{out}", "--out", "{data}/x.txt"], "must end in .png"),
        (["{image}", "a", "--model", "{out}", "--out", "{data}/no/x.png"], "does not exist. Create it first"),
        (["{image}", "a", "--model", "{out}", "--mask", "{data}/m.jpg"], "--mask .*m.jpg must end in .png"),
    ],
)
def test_a_mistake_is_named(trained, arguments, message):
    folder, _, _ = trained
    image = next((folder / "images").iterdir())
    places = {"image": image, "out": folder / "out", "data": folder / "run"}
    with pytest.raises(ConfigError, match=message):
        invoke("predict", *(each.format(**places) for each in arguments))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["--out", "a.png"], "--out a.png would overwrite IMAGE a.png. Name another file"),
        (["--out", "{tmp}/x/../a.png"], "--out .* would overwrite IMAGE"),
        (["--out", "linked.png"], "--out linked.png would overwrite IMAGE"),
        (["--out", "hard.png"], "--out hard.png would overwrite IMAGE"),
        (["--mask", "a.png"], "--mask a.png would overwrite IMAGE"),
        (["--out", "b.png", "--mask", "{tmp}/b.png"], "--mask .* would overwrite --out b.png"),
    ],
)
def test_a_picture_never_overwrites_the_image_or_the_other_picture(tmp_path, monkeypatch, written, message):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    Image.new("RGB", (9, 7), "red").save("a.png")
    Path("linked.png").symlink_to("a.png")
    Path("hard.png").hardlink_to("a.png")
    before = Path("a.png").read_bytes()
    # No model stands there: it is refused before one is looked for.
    with pytest.raises(ConfigError, match=message):
        invoke("predict", "a.png", "a cup", "--model", "none", *(each.format(tmp=tmp_path) for each in written))
    assert Path("a.png").read_bytes() == before


@pytest.mark.slow
def test_a_resume_that_finds_no_training_says_so_and_begins(trained, tmp_path):
    _, arguments, _ = trained
    found = [tmp_path / "new" if each == trained[0] / "out" else each for each in arguments]
    begun = invoke(*found, "--resume")
    assert begun.exit_code == 0, begun.output
    assert f"{tmp_path / 'new'} has no training to resume" in begun.stderr
    assert "12, 12 of them now" in begun.output
    assert "no training to resume" not in invoke(*found, "--resume").stderr
