"""The scene CLIP's losses: images against captions, and close-ups against what the crops' CLIP says of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Sharpness of the softmax over patches that pools their cosines with a caption into the image's.
POOLING_SHARPNESS = 10.0
# Scale of the cosines in the contrast between targets; as CLIP's own, but not learnt.
TAUGHT_SCALE = 15.0


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


def taught_losses(dense: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns how far N close-ups (N, D, h, w) are from what their teacher says (N, D): distance and contrast.

    As with captions, the patches that answer best count. Source: CLIPSelf (Wu et al. 2024), whose equation 2 is the
    distance, 1 − cosine; the contrast with the batch's other targets asks for the differences between them first.
    """
    scores = pooled_scores(dense, targets)
    own = torch.arange(len(targets))
    logits = scores * TAUGHT_SCALE
    contrast = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    return 1 - scores.diagonal().mean(), contrast
