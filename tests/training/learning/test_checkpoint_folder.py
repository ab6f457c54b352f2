from __future__ import annotations

import json

import pytest
import torch

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.chooser.chooser_config import load_chooser_config
from pseudoris.training.chooser.chooser_training import load_student
from pseudoris.training.learning import TrainingFolder
from pseudoris.training.learning.checkpoint_folder import TRAININGS_VERSION, load_checkpoint
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.ppt_learner import load_ppt


def test_a_checkpoint_that_cannot_be_written_leaves_the_former(tmp_path):
    folder = TrainingFolder(tmp_path / "out")
    folder.begin({"a": 1})
    assert folder.load() is None
    folder.save({"module": {"weight": torch.ones(2)}, "step": 3})
    # What torch cannot pickle fails in the middle of the file.
    with pytest.raises(AttributeError):
        folder.save({"module": {"weight": torch.zeros(2)}, "step": lambda: None})
    assert folder.load()["step"] == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint.pt", "config.json"]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work_and_none_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for place in ("file", "lost"):
        with pytest.raises(ConfigError, match=rf"out cannot be used: .*{place} is no folder .*Name another --out"):
            TrainingFolder(tmp_path / place / "in" / "out").refuse_another(is_resuming=False)
    with pytest.raises(ConfigError, match=r"file/out cannot be made: Not a directory\. Name another folder"):
        TrainingFolder(tmp_path / "file" / "out").begin({"learner": "ppt"})
    out = TrainingFolder(tmp_path / "new" / "out")
    out.refuse_another(is_resuming=False)
    # Root may write anywhere: a folder of another user is played.
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match=r"new/out cannot be used: .* is no folder that you may write"):
        out.refuse_another(is_resuming=True)
    assert not (tmp_path / "new").exists()


def test_another_setting_is_named_on_a_resume(tmp_path):
    folder, version = TrainingFolder(tmp_path), {"version": TRAININGS_VERSION}
    folder.begin({**version, "config": {"seed": 1, "old": 2}, "runs": ["a"]})
    folder.begin({**version, "config": {"seed": 1, "old": 2}, "runs": ("a",)})
    with pytest.raises(ConfigError, match=r"(?s)config.seed: 1 then, 2 now.*config.old: 2 then, None now"):
        folder.begin({**version, "config": {"seed": 2}, "runs": ["a"]})


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_a_mistake_with_a_name(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"checkpoint.pt is not a checkpoint of a training"):
        load_checkpoint(path)


def test_a_training_without_a_checkpoint_yet_is_told_from_no_training(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ConfigError, match=r"There is no checkpoint at .* Give the --out of `pseudoris train`"):
        load_checkpoint(path)
    TrainingFolder(tmp_path).begin({"learner": "ppt"})
    with pytest.raises(
        ConfigError, match=r"no finished round\). Continue it: the same `pseudoris train` with --resume\.$"
    ):
        load_checkpoint(path)
    with pytest.raises(ConfigError, match="There is no checkpoint at"):
        load_checkpoint(tmp_path / "other.pt")
    for name in ("01-semantic", "02-ris_augmented"):
        (tmp_path / name).mkdir()
    TrainingFolder(tmp_path / "01-semantic").save({"module": {}})
    with pytest.raises(ConfigError, match=r"with --resume\. Or give .*01-semantic, an unfinished round\.$"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("learner", "load", "read"), [("chooser", load_student, load_chooser_config), ("ppt", load_ppt, load_ppt_config)]
)
def test_a_checkpoint_that_lacks_settings_or_the_digests_of_what_it_was_trained_on_is_refused(
    tmp_path, learner, load, read
):
    said = {"learner": learner, "version": TRAININGS_VERSION}
    configured = {**said, "config": read("tiny").decisive()}
    for settings, lacking in ((said, "settings of its training"), (configured, "sha256 of its CLIP")):
        TrainingFolder(tmp_path).save({"module": {}, "settings": json.dumps(settings)})
        with pytest.raises(ConfigError, match=rf"checkpoint\.pt lacks the {lacking}. Give the --out"):
            load(tmp_path)
