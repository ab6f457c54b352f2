"""The scene CLIP's loss: images against captions, by the patches that answer them."""

from __future__ import annotations

import torch

# Sharpness of the softmax over patches that pools their cosines with a caption into the image's.
POOLING_SHARPNESS = 10.0


def pooled_scores(dense: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Returns the score (T, B) of each image for each text: its patches' cosines, the best answers weighing most.

    dense (B, D, h, w) and texts (T, D), normalised. So an image-caption pair teaches the patches that answer the
    caption, and nobody says which they are. Source: pooling of patch-text similarities as in FILIP (Yao et al. 2021)
    and SPARC (Bica et al. 2024); here a softmax whose weights carry no gradient.
    """
    cosines = torch.einsum("td,bdp->tbp", texts, dense.flatten(2))
    weights = (cosines.detach() * POOLING_SHARPNESS).softmax(-1)
    return (weights * cosines).sum(-1)


def scene_contrast(
    scores: torch.Tensor, scale: torch.Tensor, fits: torch.Tensor, unsettled: torch.Tensor
) -> torch.Tensor:
    """Returns the symmetric cross-entropy of texts × images scores (T, B): all that fits is positive.

    `fits` and `unsettled` are those of `caption_relations`; a row's loss is the mean over its positives.
    """
    logits = (scores * scale).masked_fill(unsettled, float("-inf"))
    return 0.5 * (_cross_entropy(logits, fits) + _cross_entropy(logits.T, fits.T))


def _cross_entropy(logits: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    """Mean negative log-probability of the positives of each row."""
    kept = torch.where(fits, logits.log_softmax(-1), torch.zeros_like(logits))
    return -(kept.sum(-1) / fits.sum(-1).clamp(min=1)).mean()
