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


def pointing_loss(rough: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how far a softmax over all patches is from the target's share of each, a Kullback-Leibler divergence.

    Background is most of an image: a mean over patches would say little of which object is meant. Here patches
    compete, and the gradient is about the object alone.

    Args:
        rough: (T, rounds, h, w) logits.
        targets: (T, m, m) in [0, 1]; one without a pixel counts nothing.
    """
    share = F.adaptive_avg_pool2d(targets[:, None], (rough.shape[-2], rough.shape[-1])).flatten(2)
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-6)
    divergence = F.kl_div(rough.flatten(2).log_softmax(-1), share.expand(-1, rough.shape[1], -1), reduction="none")
    return divergence.sum(-1).mean()


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
    where = pointing_loss(rough, targets)
    loss = config.bce * bce + config.dice * dice + config.pointing * where
    return {"loss": loss, "bce": bce, "dice": dice, "pointing": where}
