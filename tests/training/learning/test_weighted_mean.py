from __future__ import annotations

import torch

from pseudoris.training.learning.training_data import weighted_mean


def test_losses_count_by_their_weights_whatever_the_scale():
    losses, weights = torch.tensor([[1.0, 3.0], [8.0, 8.0]]), torch.tensor([0.3, 0.1])
    assert weighted_mean(losses, weights).item() == weighted_mean(losses, 2 * weights).item()
    torch.testing.assert_close(weighted_mean(losses, weights), torch.tensor((0.3 * 2 + 0.1 * 8) / 0.4))


def test_equal_weights_are_the_plain_mean_bit_by_bit():
    losses = torch.rand(7, 5, 5)
    assert torch.equal(weighted_mean(losses, torch.ones(7)), losses.mean())
    assert torch.equal(weighted_mean(losses, None), losses.mean())


def test_without_any_weight_there_is_no_loss():
    assert weighted_mean(torch.tensor([1.0, 2.0]), torch.zeros(2)).item() == 0
