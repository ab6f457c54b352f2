from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pseudoris.training.learning import TrainingConfig
from pseudoris.training.learning.trainer import make_optimiser, rate_at

ADAM = TrainingConfig(optimiser="adam", schedule="constant", weight_decay=0, num_warmup_steps=2, num_steps=10)


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up():
    rates = [rate_at(step, ADAM) for step in range(12)]
    assert rates == pytest.approx([0.5e-3, 1e-3, *[1e-3] * 10])


def test_adam_is_its_authors_and_has_no_decay():
    optimiser = make_optimiser(nn.Linear(2, 2), ADAM)
    assert type(optimiser) is torch.optim.Adam
    assert optimiser.defaults["betas"] == (0.9, 0.999)
    with pytest.raises(ValidationError, match=r"weight_decay is 0.1, but optimiser adam has no decay"):
        TrainingConfig(optimiser="adam", weight_decay=0.1)


def test_trainings_from_before_these_settings_say_the_same_of_themselves():
    assert {"optimiser", "schedule"} & TrainingConfig().decisive().keys() == set()
    assert ADAM.decisive().items() >= {"optimiser": "adam", "schedule": "constant"}.items()
