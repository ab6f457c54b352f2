"""CLIP's residual image tower in the form in which it is computed fastest."""

from __future__ import annotations

from itertools import pairwise

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(tower: nn.Module) -> None:
    """Fold each batch norm of a `ModifiedResNet` into the convolution before it; other towers stay as they are.

    With the fixed statistics of eval mode the two are one affine map; results are equal up to rounding. Fold in
    float32: weights are divided by standard deviations.
    """
    if not isinstance(tower, ModifiedResNet):
        return
    for module in list(tower.modules()):
        # In open_clip's towers a convolution is followed by its norm.
        for (name, convolution), (name_of_norm, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, name_of_norm, nn.Identity())


def memory_format(tower: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the layout of a tower's weights and crops: channels last, where convolutions would reorder each input.

    Measured on two threads of an AMD EPYC with AVX-512, 64 crops of RN50: 5.5 s become 3.6, and 3.0 with folded norms.
    On a GPU it was not measured.
    """
    is_last = isinstance(tower, ModifiedResNet) and device.type == "cpu"
    return torch.channels_last if is_last else torch.contiguous_format
