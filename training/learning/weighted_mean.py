"""The mean of losses that count by their weights."""

from __future__ import annotations

import torch


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of losses (T, …), a scalar; weights (T,) of at least 0 are scaled to a mean of 1.

    Without weights, and with equal ones, it is the plain mean. If all are 0, it is 0.
    """
    if weights is None:
        return losses.mean()
    relative = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    return (losses * relative.view(-1, *[1] * (losses.ndim - 1))).mean()
