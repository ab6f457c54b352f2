"""What a predicted mask is punished for: each pixel (BCE), and the whole outline (dice)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.student.config import LossConfig


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean over masks of 1 - dice, the dice of probabilities with squares below (V-Net, Milletari 2016).

    Args:
        logits: (T, H, W).
        targets: (T, H, W) in [0, 1].
    """
    probabilities = logits.sigmoid().flatten(1)
    wanted = targets.flatten(1)
    overlap = (probabilities * wanted).sum(1)
    # One pixel more on both sides: a mask that is empty at this size, as it should be, loses nothing.
    return (1 - (2 * overlap + 1) / (probabilities.square().sum(1) + wanted.square().sum(1) + 1)).mean()


def mask_losses(
    logits: torch.Tensor, rough: torch.Tensor, targets: torch.Tensor, config: LossConfig
) -> dict[str, torch.Tensor]:
    """Return `loss` and its parts, scalars.

    Args:
        logits: (T, m, m).
        rough: (T, rounds, h, w), logits on the grid of patches.
        targets: (T, m, m) float32 in [0, 1], shares of each pixel.
        config: Weights.
    """
    logits, rough = logits.float(), rough.float()
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    dice = dice_loss(logits, targets)
    small = F.adaptive_avg_pool2d(targets[:, None], (rough.shape[-2], rough.shape[-1])).expand_as(rough)
    where = F.binary_cross_entropy_with_logits(rough, small)
    loss = config.bce * bce + config.dice * dice + config.rough * where
    return {"loss": loss, "bce": bce, "dice": dice, "rough": where}
