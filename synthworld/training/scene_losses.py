"""The scene CLIP's losses: captions against whole scenes, and patches against what the crops' CLIP says of windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

# Sharpness of the softmax over patches that pools their cosines with a caption into the image's.
POOLING_SHARPNESS = 10.0
# Scale of the cosines in the contrast between windows; as CLIP's own, but not learnt.
WINDOW_SCALE = 15.0


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


def window_pixels(images: torch.Tensor, windows: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the windows (K, 3, size, size) of images (B, 3, H, W); windows (K, 5) of (image, x0, y0, x1, y1) px."""
    return torch.as_tensor(roi_align(images, windows, size, 1.0, 2, aligned=True))


def window_features(dense: torch.Tensor, windows: torch.Tensor, *, patch_size: int) -> torch.Tensor:
    """Returns the mean (K, D) of the patches in each window, normalised; dense (B, D, h, w), windows as above."""
    means = roi_align(dense, windows, 1, 1 / patch_size, 4, aligned=True)
    return F.normalize(means[:, :, 0, 0], dim=-1)


def window_losses(features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns how far window features (K, D) are from their targets (K, D), both normalised: distance and contrast.

    Source: CLIPSelf (Wu et al. 2024), equation 2: the mean of 1 − cosine over windows drawn at random. The contrast,
    each window's features against all windows' targets, is ours: it asks for the differences between windows first.
    """
    cosines = features @ targets.T
    own = torch.arange(len(features))
    logits = cosines * WINDOW_SCALE
    contrast = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    return 1 - cosines.diagonal().mean(), contrast
