"""Trainings of the chooser: they learn, resume to equal weights, and are read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.chooser.chooser_training import ChooserLearner, StudentRequest, load_student, train_student
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import open_fabric
from tests.training.checkpoints import KilledError, assert_equal_weights
from tests.training.chooser.builders import imported_run, small_config


def train(request, *, until: int | None = None):
    """Train; with `until`, end at the first report of so many steps, as a kill would."""

    def on_step(report):
        if until is not None and report.step >= until:
            raise KilledError

    return train_student(request, open_fabric(request.config.training), on_step=on_step)


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_had_happened_and_reads_back_the_same(tmp_path, cache, run):
    config = small_config(cache, ["training.checkpoint_every=5", "model.dropout=0.1"])
    request = StudentRequest(config, [run], tmp_path / "whole", val=run)
    _, summary = train(request)
    cut = replace(request, out=tmp_path / "cut")
    with pytest.raises(KilledError):
        train(cut, until=8)
    _, resumed = train(replace(cut, is_resuming=True))
    assert resumed.num_steps_now == 7
    assert_equal_weights(request.out, cut.out)
    student = load_student(request.out)
    assert held_out_figures(student.answer, HeldOutExpressions(run)) == pytest.approx(summary.figures)


@pytest.mark.slow
def test_weights_of_one_draw_other_texts_and_learn_all_the_same(tmp_path, cache, run):
    words = ["data.weighting=both", "data.is_kept_only=false"]
    request = StudentRequest(small_config(cache, words, steps=4), [run], tmp_path / "out", num_epochs=1)
    _, summary = train(request)
    assert summary.num_steps > 0
    config = load_student(request.out)._config
    assert config.data.weighting == "both"


@pytest.mark.slow
def test_a_small_share_of_human_masks_brings_others_in_each_epoch_and_all_of_them_are_said(tmp_path, run):
    human = imported_run(tmp_path / "human", 4)
    words = ["data.human_share=0.05", "data.images_per_batch=16"]
    request = StudentRequest(small_config(tmp_path / "masks", words, steps=6), [run], tmp_path / "out", human=human)
    train(request)
    origin = json.loads((request.out / "trained_on.json").read_text())
    assert HeldOutExpressions(human).image_digests() <= set(origin["images"])


@pytest.mark.slow
def test_it_learns_which_mask_is_meant(tmp_path, cache, run):
    words = ["training.peak_rate=0.003", "training.log_every=1", "mirrored_words=null"]
    losses = []
    request = StudentRequest(small_config(cache, words, steps=200), [run], tmp_path / "out", val=run)
    _, summary = train_student(
        request, open_fabric(request.config.training), on_step=lambda each: losses.append(each.values.get("train/loss"))
    )
    # The last report is the validation's.
    assert sum(losses[-11:-1]) < 0.5 * sum(losses[:10])
    before = ChooserLearner(request.config, load_student(request.out).store)
    assert summary.figures["miou"] > held_out_figures(before.answer, HeldOutExpressions(run))["miou"] + 0.05


@pytest.mark.slow
def test_masks_of_other_settings_than_it_was_trained_on_are_refused(tmp_path, cache, run, monkeypatch):
    request = StudentRequest(small_config(cache, steps=3), [run], tmp_path / "out")
    train(request)
    # As if SAM's weights had changed since.
    monkeypatch.setattr("pseudoris.training.chooser.candidate_masks.sam_digest", lambda masks: "others")
    with pytest.raises(ConfigError, match="chose among masks of the preset 'tiny' as it was then"):
        load_student(request.out)
