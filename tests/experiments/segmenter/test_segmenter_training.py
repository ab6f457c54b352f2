from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from experiments.segmenter import segmenter_training
from experiments.segmenter.segmenter_config import SegmenterConfig
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from tests.experiments.segmenter.builders import small_config
from tests.interchange.dataset.builders import Row, build_run
from tests.training.checkpoints import KilledError, assert_equal_weights, weights


@dataclass(frozen=True)
class Request:
    """One training."""

    config: SegmenterConfig
    runs: list[str]
    out: Path
    val: str | None = None
    human: str | None = None
    is_resuming: bool = False


def train_segmenter(request, fabric, **reports):
    """Train as a request says."""
    rest = {"val": request.val, "human": request.human, "is_resuming": request.is_resuming}
    return segmenter_training.train_segmenter(request.config, request.runs, request.out, fabric, **rest, **reports)


def train(request, *, until: int | None = None):
    """Train; with `until`, end at the first report of so many steps, as a kill would."""

    def on_step(report):
        if until is not None and report.step >= until:
            raise KilledError

    return train_segmenter(request, open_fabric(request.config.training), on_step=on_step)


@pytest.fixture
def request_(tmp_path, run):
    return Request(small_config(tmp_path, ["training.checkpoint_every=5"]), [run], tmp_path / "whole", val=run)


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_is_as_if_nothing_had_happened(tmp_path, request_):
    _, summary = train(request_)
    assert (summary.num_steps, summary.num_steps_now) == (12, 12)
    cut = replace(request_, out=tmp_path / "cut")
    with pytest.raises(KilledError):
        train(cut, until=8)
    # An epoch has three batches: five steps end within the second.
    assert load_checkpoint(cut.out / "checkpoint.pt")["step"] == 5
    _, resumed = train(replace(cut, is_resuming=True))
    assert resumed.num_steps_now == 7
    assert_equal_weights(request_.out, cut.out)
    assert resumed.figures == summary.figures


@pytest.mark.slow
def test_a_training_learns_the_masks_that_it_is_shown(tmp_path, run):
    config = small_config(tmp_path, ["training.peak_rate=0.01", "model.dropout=0.0", "training.log_every=1"], steps=80)
    losses = []
    request = Request(config, [run], tmp_path / "out", val=run)
    _, summary = train_segmenter(
        request, open_fabric(config.training), on_step=lambda report: losses.append(report.values.get("train/loss"))
    )
    assert losses[-2] < 0.6 * losses[0]
    assert summary.figures["miou"] > 0.4
    saved = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert saved["figures"]["miou"] == summary.figures["miou"]
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))


def test_several_runs_and_a_humans_share_are_one_training_set(tmp_path, run):
    second = build_run(tmp_path / "second", prefix="t", num_shards=1).location.root
    config = small_config(tmp_path, ["data.human_fraction=0.5", "data.human_share=0.4"], steps=6)
    request = Request(config, [run, second], tmp_path / "out", human=second)
    _, summary = train(request)
    assert summary.figures == {}
    settings = json.loads(load_checkpoint(tmp_path / "out" / "checkpoint.pt")["settings"])
    assert settings["runs"] == [run, second]
    assert settings["human"] == second


@pytest.fixture
def uneven(tmp_path, request_):
    """A run whose images have one mask or four: the halves of a batch are hardly ever alike."""

    def rows(number: int) -> list[Row]:
        return [(mask, f"text {mask} of {number}", {}) for mask in range(4 if number % 3 == 0 else 1)]

    location = build_run(tmp_path / "uneven", prefix="u", rows=rows).location
    return replace(request_, runs=[location.root])


@pytest.mark.long
def test_two_processes_learn_what_one_does_of_uneven_halves(tmp_path, uneven):
    config = small_config(tmp_path, ["model.dropout=0.0", "training.num_devices=2"])
    both = replace(uneven, config=config, out=tmp_path / "two")
    # Forked, as `open_fabric` would start the program anew: only how the second process comes to be differs.
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(lambda each: train_segmenter(both, each) and None)
    train(replace(uneven, config=small_config(tmp_path, ["model.dropout=0.0"])))
    one, two = weights(uneven.out), weights(both.out)
    # The mean of two halves' means: equal but for rounding, which AdamW's first steps make more of.
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (uneven.out, both.out))
    assert first["figures"]["miou"] == pytest.approx(second["figures"]["miou"], abs=0.05)
