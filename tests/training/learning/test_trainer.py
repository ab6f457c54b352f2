"""One loop, whatever learns: here a line through nothing; and the folder of a training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.training.chooser.chooser_config import load_chooser_config
from pseudoris.training.chooser.chooser_training import load_student
from pseudoris.training.learning import Trainer, TrainingConfig, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import TRAININGS_VERSION, load_checkpoint
from pseudoris.training.learning.trainer import rate_at
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.ppt_learner import load_ppt
from tests.builders.head import free_ports


class SetUpError(Exception):
    """What ends a training before its first step."""


@dataclass
class Line:
    """Learns the means of its batches."""

    module: nn.Linear = field(default_factory=lambda: nn.Linear(2, 1))

    def losses(self, module: nn.Module, batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the square of what the line says."""
        return {"loss": module(batch).square().mean()}

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return nothing."""
        return {}


@dataclass
class Diverging(Line):
    """Its loss, or its gradient alone, is no number."""

    is_loss_finite: bool = False

    def losses(self, module: nn.Module, batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return a root, which at 0 has no slope, or NaN."""
        nothing = 0 * module(batch).square().mean()
        return {"loss": nothing.sqrt() if self.is_loss_finite else nothing / 0}


class Ones:
    """The same batch without end."""

    def batches(self, first: int) -> Iterator[torch.Tensor]:
        """Yield ones."""
        while True:
            yield torch.ones(4, 2)


class Elsewhere(Fabric):
    """Stands for a GPU: parameters have another device than checkpoints, and `setup` moves parameters alone."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")

    def setup(self, module, *optimisers, **settings):
        module.to(self.device)
        moments = [state["exp_avg"] for each in optimisers for state in each.state.values()]
        assert len(moments) == 2
        assert {each.device.type for each in moments} == {"meta"}
        raise SetUpError


def trainer(folder: Path, fabric: Fabric | None = None, **settings) -> Trainer:
    config = TrainingConfig(**{"num_steps": 4, "num_warmup_steps": 0, **settings})
    own = TrainingFolder(folder)
    own.begin({"version": TRAININGS_VERSION})
    return Trainer(fabric or Fabric(accelerator="cpu", devices=1), config, own, settings="{}")


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("is_resumed", [True, False])
def test_the_state_of_an_optimiser_is_restored_to_where_the_parameters_train(tmp_path, is_resumed) -> None:
    trainer(tmp_path / "first").fit(Line(), Ones())
    again = trainer(tmp_path / ("first" if is_resumed else "second"), Elsewhere(accelerator="cpu", devices=1))
    again.begin_with = None if is_resumed else TrainingFolder(tmp_path / "first").load()
    with pytest.raises(SetUpError):
        again.fit(Line(), Ones())


@pytest.mark.parametrize(("is_loss_finite", "what"), [(False, "the loss"), (True, "the gradient norm")])
def test_a_training_that_diverges_says_which_setting_to_lower(tmp_path, is_loss_finite, what) -> None:
    with pytest.raises(ConfigError, match=rf"{what} of step 0 is nan. Lower training.peak_rate=0.5"):
        trainer(tmp_path, peak_rate=0.5).fit(Diverging(is_loss_finite=is_loss_finite), Ones())


def test_all_processes_end_where_the_loss_of_one_is_no_number(tmp_path, monkeypatch) -> None:
    # Left alone, Fabric puts one there that each later launch of this process takes, free or not.
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    TrainingFolder(tmp_path).begin({})
    config = TrainingConfig(num_steps=4, num_warmup_steps=0, num_devices=2)

    def fit(each: Fabric) -> None:
        learner = Line() if each.is_global_zero else Diverging()
        try:
            Trainer(each, config, TrainingFolder(tmp_path), settings="{}").fit(learner, Ones())
        except ConfigError as error:
            (tmp_path / f"rank-{each.global_rank}").write_text(str(error))

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(fit)

    for rank in range(2):
        assert "the loss of step 0 is nan. Lower training.peak_rate" in (tmp_path / f"rank-{rank}").read_text()


def test_texts_that_any_process_cut_are_counted_once_in_the_summary(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    TrainingFolder(tmp_path).begin({})
    config = TrainingConfig(num_steps=4, num_warmup_steps=0, num_devices=2)

    def fit(each: Fabric) -> None:
        cut = {"a long text", f"a long text of process {each.global_rank}"}
        trainer = Trainer(each, config, TrainingFolder(tmp_path), settings="{}", cut_texts=cut, context_length=77)
        trainer.fit(Line(), Ones())

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(fit)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_cut_texts"], summary["context_length"]) == (3, 77)


def test_the_rate_warms_up_and_falls_to_a_fiftieth():
    config = TrainingConfig(num_steps=100, num_warmup_steps=10, peak_rate=1.0)
    rates = [rate_at(step, config) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="num_warmup_steps 9 is not below num_steps 9"):
        TrainingConfig(num_steps=9, num_warmup_steps=9)
    assert TrainingConfig().with_steps(30).num_warmup_steps == 3


def test_a_checkpoint_that_cannot_be_written_leaves_the_former(tmp_path, monkeypatch):
    folder = TrainingFolder(tmp_path / "out")
    folder.begin({"a": 1})
    assert folder.load() is None
    folder.save({"module": {"weight": torch.ones(2)}, "step": 3})
    # What torch cannot pickle fails in the middle of the file.
    with pytest.raises(AttributeError):
        folder.save({"module": {"weight": torch.zeros(2)}, "step": lambda: None})
    # It counts once it is on the disk: here a kill comes before.
    monkeypatch.setattr("os.fsync", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.save({"module": {"weight": torch.zeros(2)}, "step": 4})
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
    with pytest.raises(ConfigError, match=r"holds other files: .*\. Name a new or an empty folder as --out"):
        TrainingFolder(tmp_path).refuse_another(is_resuming=False)
    (tmp_path / "own" / "_old").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"own holds other files: _old\. Name"):
        TrainingFolder(tmp_path / "own").refuse_another(is_resuming=False)
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
