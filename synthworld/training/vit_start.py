"""A start for a ViT that learns in minutes: a patch embedding that is not noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer

# Variance below which a component of patches counts as grain: it is let through in proportion, not at full size.
_GRAIN_VARIANCE = 0.03
# The size of a patch's components beside the position's, whose standard deviation is 0.54.
_CONTENT_STD = 0.7


@torch.no_grad()
def whiten_patches(visual: VisionTransformer, images: torch.Tensor) -> None:
    """Sets the patch embedding to the principal components of the patches of images (B, 3, H, W), whitened.

    128 components of 432 hold 98 % of the variance of a scene's patches; random filters mostly answer to its grain.
    """
    size = visual.patch_size
    patches = F.unfold(images, kernel_size=size, stride=size).transpose(1, 2).flatten(0, 1).double()
    patches = patches - patches.mean(0)
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    width = visual.conv1.weight.shape[0]
    kept, directions = variances.flip(0)[:width], components.flip(1)[:, :width]
    filters = (directions / (kept + _GRAIN_VARIANCE).sqrt()).T * _CONTENT_STD
    # The sign of an eigenvector is the library's choice: the largest weight is made positive.
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    visual.conv1.weight.copy_((filters * largest.sign()).float().view_as(visual.conv1.weight))
