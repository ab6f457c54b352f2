"""What the chooser answers, and what its loss asks."""

from __future__ import annotations

import pytest
import torch

from pseudoris.training.chooser.chooser_training import ChooserLearner, choice_loss
from pseudoris.training.chooser.question_dataset import Question, collate_questions, mirrored_text

TEXTS = ["the red circle", "the leftmost square on the top", "a star"]


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
    # The padding of a batch whose largest image has no question.
    torch.testing.assert_close(
        choice_loss(right[:, :2], ious[:, :2], 0.1),
        choice_loss(torch.cat([right[:, :2], torch.full((2, 1), float("-inf"))], 1), ious[:, :2], 0.1),
    )


def test_a_mirror_exchanges_words_and_nothing_within_words():
    found = mirrored_text("the left one, right of the leftover", {"left": "right"})
    assert found == "the right one, left of the leftover"
    assert mirrored_text(found, {"left": "right"}) == "the left one, right of the leftover"
