"""Redrawing the outlines of chosen masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.training.chooser.candidate_masks import CandidateStore
from pseudoris.training.chooser.chooser_config import RefinementConfig
from pseudoris.training.chooser.chooser_training import ChooserLearner, StudentRequest, load_student, train_student
from pseudoris.training.chooser.mask_refinement import (
    MaskRefiner,
    mask_share,
    redrawn,
    view_boxes,
    views_of,
)
from pseudoris.training.chooser.question_dataset import QuestionDataset, collate_questions
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.training_data import open_runs
from pseudoris.workers.masks import rle
from tests.training.chooser.builders import small_config

ON = ["refinement.is_on=true", "refinement.size=16", "refinement.width=4", "refinement.share=1"]
VIEW = RefinementConfig(is_on=True, size=64)


def rectangle(top: int, left: int, height: int, width: int) -> torch.Tensor:
    """Return a mask (40, 60) bool."""
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def seen_of(mask: torch.Tensor, image: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mask's view, and its box."""
    counts, size = rle.encode(mask[None]), (mask.shape[0], mask.shape[1])
    pixels = torch.zeros(3, *size, dtype=torch.uint8) if image is None else image
    return views_of(pixels, counts, size, VIEW)[0], view_boxes(counts, size, VIEW.context)[0]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 280), st.integers(1, 280), st.booleans())
def test_untrained_it_leaves_every_mask_as_it_is_at_its_own_resolution(top, left, height, width, is_striped):
    mask = torch.zeros(240, 260, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    if is_striped:
        mask[1::2] = False
        mask[top, left] = True
    _, box = seen_of(mask)
    with torch.no_grad():
        (change,) = MaskRefiner(4)(seen_of(mask)[0][None])
    assert torch.equal(redrawn(change, box, mask), mask)


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 10), st.integers(1, 20))
def test_an_outline_is_seen_in_the_frame_of_another_mask_and_drawn_back(top, left, height, width):
    other = rectangle(max(0, top - 1), max(0, left - 1), height + 2, width + 2)
    meant = rectangle(top, left, height, width)
    _, box = seen_of(other)
    outline = mask_share(meant, box, VIEW.size)
    assert torch.equal(redrawn(outline.float() - 127.5, box, other), meant)


def test_candidates_are_kept_with_their_views_apart_from_those_without(tmp_path, towers, pixels):
    config = small_config(tmp_path, ON)
    store = CandidateStore(config, towers)
    found = store.of("scene", pixels)
    assert found.views is not None
    assert found.views.shape == (len(found.counts), 4, 16, 16)
    again = CandidateStore(config, towers)["scene"]
    assert again.views is not None
    assert torch.equal(again.views, found.views)
    assert CandidateStore(small_config(tmp_path), towers).held("scene") is None


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
