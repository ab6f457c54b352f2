"""What the chooser answers and redraws, and its trainings: they learn, resume to equal weights, and are read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.chooser.candidate_masks import CandidateStore
from pseudoris.training.chooser.chooser_config import RefinementConfig
from pseudoris.training.chooser.chooser_training import (
    ChooserLearner,
    StudentRequest,
    choice_loss,
    load_student,
    train_student,
)
from pseudoris.training.chooser.mask_refinement import MaskRefiner, mask_share, redrawn, view_boxes, views_of
from pseudoris.training.chooser.question_dataset import Question, QuestionDataset, collate_questions, mirrored_text
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.training_data import open_runs
from tests.training.checkpoints import KilledError, assert_equal_weights
from tests.training.chooser.builders import imported_run, small_config

TEXTS = ["the red circle", "the leftmost square on the top", "a star"]
ON = ["refinement.is_on=true", "refinement.size=16", "refinement.width=4", "refinement.share=1"]
VIEW = RefinementConfig(is_on=True, size=64)


@pytest.fixture
def learner(config, store):
    found = ChooserLearner(config, store)
    found.module.eval()
    return found


def test_an_answer_is_one_of_the_masks_whatever_is_asked_beside_it(learner, store, pixels):
    together = learner.choose("scene", pixels, TEXTS)
    torch.testing.assert_close(together.probabilities.sum(1), torch.ones(3))
    assert together.chosen.shape == (3, *pixels.shape[1:])
    for at, text in enumerate(TEXTS):
        alone = learner.choose("scene", pixels, [text]).probabilities[0]
        torch.testing.assert_close(alone, together.probabilities[at], atol=1e-5, rtol=1e-4)


def test_images_with_more_masks_beside_it_change_no_answer(learner, store, pixels):
    store.of("scene", pixels)
    store.of("part", pixels[:, :, : pixels.shape[2] // 2].contiguous())
    few, many = sorted(("scene", "part"), key=lambda key: len(store[key].counts))
    assert len(store[few].counts) < len(store[many].counts)

    def batch(*keys: str):
        return collate_questions([[Question(key, "the red circle", torch.ones(1), False)] for key in keys])

    alone, beside = (
        learner.module(learner._input([store[key] for key, _ in each.images], each.texts, each.owners))[0][0]
        for each in (batch(few), batch(few, many))
    )
    num = len(store[few].counts)
    torch.testing.assert_close(beside[:num], alone, atol=1e-5, rtol=1e-4)
    assert beside[num:].isinf().all()


def test_an_image_without_masks_is_answered_with_an_empty_one(learner):
    choice = learner.choose("plain", torch.full((3, 48, 64), 200, dtype=torch.uint8), TEXTS)
    assert choice.chosen.shape == (3, 48, 64)
    assert not choice.chosen.any()


def test_the_loss_is_least_where_scores_follow_the_ious():
    ious = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.0]])
    absent = torch.tensor([[False, False, False], [False, False, True]])
    right = (ious / 0.1).masked_fill(absent, float("-inf"))
    least = choice_loss(right, ious[:, :3], 0.1)
    for wrong in (right.flip(0), torch.zeros(2, 3).masked_fill(absent, float("-inf"))):
        assert choice_loss(wrong, ious, 0.1) > least


def test_a_mirror_exchanges_words_and_nothing_within_words():
    found = mirrored_text("the left one, right of the leftover", {"left": "right"})
    assert found == "the right one, left of the leftover"
    assert mirrored_text(found, {"left": "right"}) == "the left one, right of the leftover"


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
def test_a_small_share_of_human_masks_brings_others_in_each_epoch_and_all_of_them_are_said(tmp_path, run):
    human = imported_run(tmp_path / "human", 4)
    words = ["data.human_share=0.05", "data.images_per_batch=16", "data.weighting=both", "data.is_kept_only=false"]
    request = StudentRequest(small_config(tmp_path / "masks", words, steps=6), [run], tmp_path / "out", human=human)
    train(request)
    assert load_student(request.out)._config.data.weighting == "both"
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


def rectangle(top: int, left: int, height: int, width: int, *, size: tuple[int, int] = (40, 60)) -> torch.Tensor:
    mask = torch.zeros(*size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def seen_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mask's view, and its box."""
    counts, size = rle.encode(mask[None]), (mask.shape[0], mask.shape[1])
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    return views_of(pixels, counts, size, VIEW)[0], view_boxes(counts, size, VIEW.context)[0]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 280), st.integers(1, 280), st.booleans())
def test_untrained_it_leaves_every_mask_as_it_is_at_its_own_resolution(top, left, height, width, is_striped):
    mask = rectangle(top, left, height, width, size=(240, 260))
    if is_striped:
        mask[1::2] = False
        mask[top, left] = True
    view, box = seen_of(mask)
    with torch.no_grad():
        (change,) = MaskRefiner(4)(view[None])
    assert torch.equal(redrawn(change, box, mask), mask)


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 10), st.integers(1, 20))
def test_an_outline_is_seen_in_the_frame_of_another_mask_and_drawn_back(top, left, height, width):
    other = rectangle(max(0, top - 1), max(0, left - 1), height + 2, width + 2)
    meant = rectangle(top, left, height, width)
    _, box = seen_of(other)
    outline = mask_share(meant, box, VIEW.size)
    assert torch.equal(redrawn(outline.float() - 127.5, box, other), meant)


@pytest.mark.slow
def test_a_training_with_a_refinement_is_read_back_and_redraws_what_it_chooses(tmp_path, cache, run):
    words = [*ON, "training.peak_rate=0.03", "mirrored_words={}", "data.images_per_batch=4"]
    reports = []
    request = StudentRequest(small_config(cache, words, steps=75), [run], tmp_path / "out", val=run)
    learner, summary = train_student(request, open_fabric(request.config.training), on_step=reports.append)
    losses = [each.values["train/outline"] for each in reports if "train/outline" in each.values]
    assert losses[-1] < losses[0]
    student = load_student(request.out)
    assert isinstance(student, ChooserLearner)
    questions = HeldOutExpressions(run)
    question = next(iter(questions))
    choice = student.choose(question.image_key, question.image, question.texts)
    assert set(choice.redrawn) == set(choice.probabilities.argmax(1).tolist())
    assert any(not torch.equal(mask, choice.masks[number]) for number, mask in choice.redrawn.items())
    assert torch.equal(choice.chosen, learner.answer(question))
    assert 0 < summary.figures["miou"] <= 1


@pytest.mark.slow
def test_losses_of_parts_of_a_batch_add_up_to_those_of_the_whole(cache, run, towers):
    config = small_config(cache, [*ON[:-1], "refinement.share=0.5", "mirrored_words=null", "model.dropout=0"])
    store = CandidateStore(config, towers)
    learner = ChooserLearner(config, store)
    targets, images, _ = open_runs([run], None, config.data, seed=0)
    data = QuestionDataset(targets, images, store=learner.store, config=config)
    groups = data.__getitems__(range(len(data)))
    parts = [collate_questions(each) for each in (groups, groups[::3], [g for n, g in enumerate(groups) if n % 3])]
    whole, *shares = (learner.losses(learner.module, each)["loss"] * len(each) for each in parts)
    assert 0 < len(parts[0].outlines) < len(groups)
    torch.testing.assert_close(sum(shares), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_where_people_are_mixed_in_it_learns_from_their_outlines_alone(cache, run, towers):
    config = small_config(cache, ON)
    learner = ChooserLearner(config, CandidateStore(config, towers))
    targets, images, _ = open_runs([run], run, config.data, seed=0)
    groups = QuestionDataset(targets, images, store=learner.store, config=config).__getitems__(range(len(targets)))
    is_taught = [any(each.outline is not None for each in group) for group in groups]
    assert not any(is_taught[: len(groups) // 2])
    assert any(is_taught[len(groups) // 2 :])


def test_a_batch_without_questions_gives_every_parameter_a_gradient_of_zero(config, towers):
    config = config.model_copy(update={"refinement": RefinementConfig(is_on=True, size=16, width=4)})
    learner = ChooserLearner(config, CandidateStore(config, towers))
    learner.losses(learner.module, collate_questions([[]]))["loss"].backward()
    for name, each in learner.module.named_parameters():
        assert each.grad is not None, name
        assert not each.grad.any(), name
