"""The optimiser and its rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from pseudoris.training.learning.training_config import TrainingConfig

# Share of the peak: what the cosine ends at.
_LAST_SHARE = 0.02


def rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, from 0: linear warm-up, then the peak, or a cosine down to 2 % of it."""
    if step < config.num_warmup_steps:
        return config.peak_rate * (step + 1) / config.num_warmup_steps
    if config.schedule == "constant":
        return config.peak_rate
    share = (step - config.num_warmup_steps) / max(config.num_steps - config.num_warmup_steps, 1)
    return config.peak_rate * (_LAST_SHARE + (1 - _LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def make_optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that need a gradient.

    With AdamW norms, biases and other parameters of one dimension do not decay. Adam has its authors' settings.
    """
    parameters = [each for each in module.parameters() if each.requires_grad]
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=config.peak_rate)
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_rate, betas=(0.9, 0.98), eps=1e-6)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters a rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
