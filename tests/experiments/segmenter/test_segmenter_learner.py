from __future__ import annotations

import math

import pytest
import torch

from experiments.segmenter.segmenter_config import LossConfig
from experiments.segmenter.segmenter_learner import dice_loss, mask_losses, pointing_loss


def test_dice_by_hand():
    # Probabilities 0.5 everywhere, one pixel of four wanted: 1 - (2 · 0.5 + 1) / (4 · 0.25 + 1 + 1).
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert dice_loss(torch.zeros(1, 2, 2), target).item() == pytest.approx(1 / 3)
    assert dice_loss(40 * target - 20, target).item() == pytest.approx(0, abs=1e-6)


def test_pointing_by_hand():
    # Half of the target in each of two patches of four: a uniform softmax is log 4 - log 2 away.
    target = torch.zeros(1, 4, 4)
    target[0, :2, 1:3] = 1
    assert pointing_loss(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(math.log(2))
    right = torch.tensor([[[[20.0, 20.0], [0.0, 0.0]]]])
    assert pointing_loss(right, target).item() == pytest.approx(0, abs=1e-6)
    # Whatever all patches have in common says nothing.
    assert pointing_loss(right + 7, target).item() == pytest.approx(0, abs=1e-6)
    assert pointing_loss(right, torch.zeros(1, 4, 4)).item() == 0


def test_an_expression_of_more_weight_counts_more_in_every_part():
    torch.manual_seed(0)
    logits, rough, targets = torch.randn(3, 8, 8), torch.randn(3, 2, 4, 4), torch.rand(3, 8, 8)
    weights = torch.tensor([0.9, 0.0, 0.3])
    found = mask_losses(logits, rough, targets, LossConfig(), weights)
    alone = [mask_losses(*(part[at : at + 1] for part in (logits, rough, targets)), LossConfig()) for at in range(3)]
    for name, value in found.items():
        due = sum(float(weight) * each[name].item() for weight, each in zip(weights, alone, strict=True)) / 1.2
        assert value.item() == pytest.approx(due, rel=1e-5)
