"""The scene CLIP's losses: objects against captions, and a caption against the patches of its scene."""

from __future__ import annotations

import torch


def contrast(scores: torch.Tensor, fits: torch.Tensor, unsettled: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy of texts × objects scores (T, B), scaled: all that fits is positive.

    `fits` and `unsettled` are those of `caption_relations`; a row's loss is the mean over its positives.
    """
    logits = scores.masked_fill(unsettled, float("-inf"))
    return 0.5 * (_cross_entropy(logits, fits) + _cross_entropy(logits.T, fits.T))


def pointing(scores: torch.Tensor, own: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
    """Return how far each caption's scores of its scene's patches are from pointing at its own object.

    The negative log of the share of a softmax over the patches that lies on the caption's own, the mean over captions.

    Args:
        scores: (T, P), scaled cosines of each caption with the P patches of its scene.
        own: (T, O) int64, the patches of the object that it was said of.
        is_open: (T, P) bool, patches that are left out: they may be the object's too, or of one that the caption fits
            as well. Those of `own` count all the same.
    """
    is_own = torch.zeros_like(is_open).scatter_(1, own, True)
    own_scores = scores.masked_fill(~is_own, float("-inf")).logsumexp(1)
    all_scores = scores.masked_fill(is_open & ~is_own, float("-inf")).logsumexp(1)
    return (all_scores - own_scores).mean()


def _cross_entropy(logits: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """Mean negative log-probability of the positives of each row."""
    kept = torch.where(fits, logits.log_softmax(-1), torch.zeros_like(logits))
    return -(kept.sum(-1) / fits.sum(-1).clamp(min=1)).mean()
