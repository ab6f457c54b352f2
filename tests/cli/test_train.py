"""`pseudoris train student`, `train ppt` and `pseudoris predict` as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evidence.experiments.quality.scene_runs import ANNOTATION_NAME, SceneRun, imported, imported_scenes
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.synthworld.scenes import Split
from pseudoris.training.learning import TrainingFolder
from tests.builders.command import invoke, pseudoris_here
from tests.builders.grefs import grefs_run
from tests.builders.human import write_small_refer
from tests.store.builders import start_run
from tests.training.chooser.builders import chooser_words, imported_run
from tests.training.ppt.builders import small_words


def setting(*words: str) -> list[str]:
    return [each for word in words for each in ("--set", word)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small run, a training on it, and what the command printed."""
    folder = tmp_path_factory.mktemp("a student é")
    run = imported_run(folder, 2)
    words = setting(*chooser_words(folder / "candidates"))
    arguments = ["train", "student", run, "--val", run, "--out", folder / "out", "--epochs", "6", "--seed", "2", *words]
    return folder, arguments, invoke(*arguments)


@pytest.mark.slow
@pytest.mark.long
def test_a_student_says_not_here_from_its_threshold_on(tmp_path):
    run = grefs_run(tmp_path, SceneRun(Split.TRAIN, 2))
    words = setting(*chooser_words(tmp_path / "candidates"))
    student, image = TrainingFolder(tmp_path / "out"), next((tmp_path / "images").iterdir())
    given = ("--steps", "4", "--set", "data.none=0.3", "--set", "data.draw=distinct", *words)
    result = invoke("train", "student", run, "--val", run, "--out", student.path, *given)
    for figure in ("mIoU", "gIoU", "N-acc.", "T-acc."):
        assert figure in result.output

    def predicted(least):
        state = student.load()
        student.save({**state, "module": {**state["module"], "min_none": torch.tensor(least)}})
        mask = tmp_path / "mask.png"
        arguments = (image, "the star", "--model", student.path, "--out", tmp_path / "seen.png", "--mask", mask)
        told = " ".join(invoke("predict", *arguments).output.split())
        with Image.open(mask) as alone:
            return told, np.asarray(alone).any()

    told, is_found = predicted(0.0)
    assert not is_found
    assert "nothing found not here" in told
    assert "the answer from 0.00 on" in told
    told, is_found = predicted(1.5)
    assert is_found
    assert "nothing found" not in told
    assert "the answer from 1.50 on" in told


@pytest.mark.parametrize(("is_given", "none"), [(False, 0.3), (True, 0.3), (False, 0.0)])
def test_a_student_of_absences_without_development_images_is_told_before_it_trains(tmp_path, is_given, none):
    # Nothing is there to read: it is told before the run is opened.
    run = str(tmp_path / "run")
    given = ["--out", str(tmp_path / "out"), "--set", f"data.none={none}", *(["--val", run] if is_given else [])]
    result = pseudoris_here("train", "student", run, *given)
    assert "there is no run at" in result.stderr
    assert ("Without --val no threshold" in result.stderr) == (none > 0 and not is_given)


def test_a_training_ends_with_its_figures_and_the_next_command(trained):
    folder, _, result = trained
    for words in ("12, 12 of them now", "parameters", "mIoU", "oIoU", "P@0.5", "P@0.9", "pseudoris predict IMAGE"):
        assert words in result.output
    settings = json.loads((folder / "out" / "config.json").read_text())
    assert settings["config"]["training"]["num_steps"] == 12
    assert settings["config"]["training"]["seed"] == 2


@pytest.mark.slow
def test_a_validation_on_images_that_were_learnt_from_is_said_first_and_once(trained, tmp_path, caplog):
    folder, _, result = trained
    note = "Circular: 2 of the 2 images of the truth were learnt from (equal sha256). The figures say nothing of unseen"
    table = " ".join(result.stdout.split())
    assert table.index("validation Circular: in full in summary.json (circularity)") < table.index("mIoU")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert [each.startswith(note) for each in summary["circularity"]] == [True]
    asked = invoke("evaluate", "--model", folder / "out", "--truth", folder / "run", "--json")
    assert json.loads(asked.stdout)["circularity"] == summary["circularity"]
    # Unseen images, and one that was left out of the training by its name.
    other = imported_scenes(tmp_path / "other", SceneRun(Split.TEST, 1))
    asked = invoke("evaluate", "--model", folder / "out" / "checkpoint.pt", "--truth", other, "--json")
    assert json.loads(asked.stdout)["circularity"] == []
    (tmp_path / "names.txt").write_text("scene-00001.png\n")
    words = setting(*chooser_words(folder / "candidates"))
    words += ["--set", f'data.exclude=["{tmp_path}/names.txt"]', "--steps", "1"]
    left_out = invoke("train", "student", folder / "run", "--val", folder / "run", "--out", tmp_path / "out", *words)
    half = "Circular: 1 of the 2 images of the truth were learnt from"
    assert caplog.text.count(half) == 1
    assert half not in " ".join(left_out.stdout.split())


@pytest.mark.slow
def test_a_student_counts_the_texts_that_clip_cuts(trained, tmp_path):
    folder, _, result = trained
    assert "cut there" not in result.output
    document = json.loads((folder / ANNOTATION_NAME).read_text())
    for row in document["annotations"]:
        row.pop("captions", None)
        row["caption"] = "very " * 90 + f"small thing {row['id']}"
    (tmp_path / "long.json").write_text(json.dumps(document))
    imported(tmp_path / "long.json", folder / "images", tmp_path / "run", "coco", ["shards.embed_images=true"])
    words = setting(*chooser_words(folder / "candidates"))
    told = invoke("train", "student", tmp_path / "run", "--out", tmp_path / "out", "--steps", "1", *words).output
    said = re.search(r"([1-9]\d*) longer than CLIP's \d+ tokens, cut there", " ".join(told.split()))
    assert said
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_cut_texts"] == int(said[1])


def test_a_run_in_which_no_candidate_fits_is_refused_before_the_folder_is_taken(trained, tmp_path):
    folder, _, _ = trained
    words = setting(*chooser_words(folder / "candidates"), "target.min_iou=1.01")
    given = ("train", "student", f"{folder / 'run'}", "--out", f"{tmp_path / 'out'}", "--steps", "1", *words)
    said = pseudoris_here(*given, code=2).stderr
    assert f"{folder / 'run'}: nothing to train on. No candidate has an IoU of at least 1.01" in said
    assert "masks. Lower it, or raise masks.points_per_side in candidates.assignments" in said
    assert not list(tmp_path.glob("out/*"))


def test_a_prediction_is_a_picture_with_the_text_below(trained):
    folder, _, _ = trained
    image = next((folder / "images").iterdir())
    out, mask = folder / "seen.png", folder / "mask.png"
    result = invoke(
        "predict", image, "The  small STAR on the left.", "--model", folder / "out", "--out", out, "--mask", mask
    )
    for words in ("the small star on the left", "masks that SAM proposes", "probability of this mask"):
        assert words in result.output
    with Image.open(image) as before, Image.open(out) as picture, Image.open(mask) as alone:
        factor = picture.width // before.width
        assert picture.width == factor * before.width >= 480
        assert picture.height > factor * before.height
        assert alone.size == before.size
        assert set(np.unique(np.asarray(alone))) <= {0, 255}


@pytest.mark.slow
def test_a_deep_picture_is_read_as_the_runs_that_the_model_learnt_from(trained, tmp_path):
    folder, _, _ = trained
    pixels = np.asarray(Image.open(next((folder / "images").iterdir())).convert("L"))
    pictures = {"eight": pixels, "ten": np.round(pixels * (1_023 / 255)).astype(np.uint16)}
    for name, samples in pictures.items():
        Image.fromarray(samples).save(tmp_path / f"{name}.png")
        words = ("--model", folder / "out", "--out", tmp_path / f"{name}-seen.png")
        invoke("predict", tmp_path / f"{name}.png", "the star", *words)
    assert (tmp_path / "ten-seen.png").read_bytes() == (tmp_path / "eight-seen.png").read_bytes()
    assert json.loads((folder / "out" / "trained_on.json").read_text())["pixels"] == {"bits": "auto"}


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
    assert f"{tmp_path / 'new'} has no training to resume" in begun.stderr
    assert "12, 12 of them now" in begun.output
    assert "no training to resume" not in invoke(*found, "--resume").stderr
    with pytest.raises(ConfigError, match="already has a training"):
        invoke(*found)


@pytest.mark.slow
def test_refer_data_go_from_import_to_a_model_that_is_trained_on_none_of_their_masks(tmp_path) -> None:
    annotation, images = write_small_refer(tmp_path)
    human, pairs, out = (tmp_path / name for name in ("human", "h", "out"))
    invoke("import", annotation, images, human, "--workers", "1", "--embed-images")
    # Of random weights: so that some texts have one pseudo-mask, and some have several.
    of_pairs = ["--set", "filtering.weights.uri=random:0", "--set", "pairs.min_peak=0.98"]
    invoke("ppt", "pairs", human, pairs, *of_pairs)
    words = setting(*small_words(tmp_path / "models"), "curriculum.epochs_factor=0.5")
    result = invoke("train", "ppt", "--h", pairs, "--val", human, "--out", out, "--seed", "2", *words)
    for words in ("semantic", "h_sem", "pairs per epoch", "parameters", "mIoU", "P@0.3", "P@0.9", "pseudoris predict"):
        assert words in result.output
    settings = json.loads((out / "config.json").read_text())
    assert "undecided pairs now have a referent" in result.stderr
    assert "validation Circular: in full in summary.json (circularity)" in " ".join(result.stdout.split())
    assert json.loads((out / "summary.json").read_text())["circularity"]
    # Of the import the images and sentences alone, through `ppt pairs`: no human mask is trained on.
    assert {name for name, runs in settings["runs"].items() if runs} == {"h"}
    assert settings["learner"] == "ppt"
    assert settings["config"]["training"]["seed"] == 2


@pytest.mark.parametrize("option", ["--d-sem", "--d-ref", "--h", "--annotated", "--val"])
def test_a_training_is_not_written_into_a_run_that_it_reads(tmp_path, option) -> None:
    run = tmp_path / "run"
    start_run(RunLocation.open(str(run)))
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match=r"--out .* is inside the run"):
        invoke("train", "ppt", option, run, "--out", run)
    assert sorted(run.rglob("*")) == before
