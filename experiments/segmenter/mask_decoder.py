"""The mask decoder: pixel features times a kernel that the fused patches make for each position.

CRIS (Wang et al., CVPR 2022) turns the sentence into one kernel for all pixels. Here every patch makes its own kernel,
so one patch can select its pixels and its neighbour none. This separates the object's position from its outline.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.schemas.errors import ConfigError


class PixelStem(nn.Module):
    """Convolutions on the image itself: the frozen patches are coarser than outlines."""

    def __init__(self, *, mask_size: int, grid: int, stem_width: int, width: int, kernel_width: int) -> None:
        super().__init__()
        self._mask_size, self._grid = mask_size, grid
        self.fine = nn.Sequential(_convolution(3, stem_width), _convolution(stem_width, stem_width))
        self.middle = nn.Sequential(
            _convolution(stem_width, 2 * stem_width, stride=2), _convolution(2 * stem_width, 2 * stem_width)
        )
        self.coarse = nn.Sequential(_convolution(2 * stem_width, 4 * stem_width, stride=2))
        self.to_patches = nn.Conv2d(4 * stem_width, width, 1)
        self.up_coarse = nn.Conv2d(4 * stem_width, 2 * stem_width, 1)
        self.up_middle = nn.Conv2d(2 * stem_width, stem_width, 1)
        self.out = nn.Sequential(_convolution(stem_width, stem_width), nn.Conv2d(stem_width, kernel_width, 1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features for the patches (U, width, h, w) and of the pixels (U, K, mask_size, mask_size).

        Args:
            images: (U, 3, S, S) float32, normalised.
        """
        fine = self.fine(F.adaptive_avg_pool2d(images, self._mask_size))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        patches = F.adaptive_avg_pool2d(self.to_patches(coarse), self._grid)
        middle = middle + _upsampled(self.up_coarse(coarse), middle)
        fine = fine + _upsampled(self.up_middle(middle), fine)
        return patches, self.out(fine)


class KernelDecoder(nn.Module):
    """Masks: at each pixel the product of its features and of the kernel of its place.

    Kernels are interpolated bilinearly between patches. Upsampled kernels would take one kernel for each pixel and
    expression. Instead each patch's kernel is applied to a window of twice the patch's size, and the windows are added
    with the interpolation's weights. This is the same sum in another order, with a sixth of the memory.
    """

    def __init__(self, width: int, kernel_width: int, *, grid: int, mask_size: int) -> None:
        super().__init__()
        self._grid, self._mask_size, self._stride = grid, mask_size, mask_size // grid
        self.norm = nn.LayerNorm(width)
        self.kernel = nn.Linear(width, kernel_width)
        self.register_buffer("window", _window(grid, self._stride), persistent=False)

    def forward(self, patches: torch.Tensor, pixels: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """Return logits (T, m, m).

        Args:
            patches: (T, N, width) of expressions.
            pixels: (U, K, m, m) of images.
            owners: (T,) int64, the image of each expression.
        """
        kernels = self.kernel(self.norm(patches))
        windows = self._windows(pixels)
        slots = _slots(owners)
        # Expressions of one image side by side, so that its pixels are met by all of them in one product.
        beside = kernels.new_zeros(len(pixels), int(slots.max()) + 1, *kernels.shape[1:])
        beside[owners, slots] = kernels
        met = (beside.transpose(1, 2) @ windows).transpose(1, 2)[owners, slots]
        return self._added(met * self.window)

    def _windows(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the pixels around each patch, (U, N, K, w · w)."""
        side, pad = 2 * self._stride, self._stride // 2
        found = F.unfold(pixels, side, padding=pad, stride=self._stride)
        num_images, num_channels = pixels.shape[:2]
        return found.view(num_images, num_channels, side * side, -1).permute(0, 3, 1, 2)

    def _added(self, met: torch.Tensor) -> torch.Tensor:
        """Return (T, m, m) of windows (T, N, w · w)."""
        side, pad = 2 * self._stride, self._stride // 2
        size = (self._mask_size, self._mask_size)
        return F.fold(met.transpose(1, 2), size, side, padding=pad, stride=self._stride)[:, 0]


def _window(grid: int, stride: int) -> torch.Tensor:
    """Return the weight of each patch's kernel at the pixels of its window, (N, w · w); over patches they add up to 1.

    As bilinear interpolation weighs, without aligned corners: beyond the outermost centres the nearest one alone.
    """
    if stride % 2:
        raise ConfigError(f"A mask has {stride} pixels per patch. An even number is needed. Change model.mask_size.")
    offsets = (torch.arange(2 * stride) + 0.5) / stride - 0.5
    line = 1 - (offsets - 0.5).abs()
    lines = line.repeat(grid, 1)
    centre = offsets - 0.5
    lines[0, centre < 0] = 1
    lines[-1, centre > 0] = 1
    return torch.einsum("ay,bx->abyx", lines, lines).reshape(grid * grid, -1)


def _slots(owners: torch.Tensor) -> torch.Tensor:
    """Return the number of each expression among those of its image, (T,)."""
    same = owners[:, None] == owners[None, :]
    return same.tril(-1).sum(1)


def _convolution(in_width: int, out_width: int, *, stride: int = 1) -> nn.Module:
    # Groups, not batches: a batch's images would otherwise change each other.
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(4, out_width), nn.GELU()
    )


def _upsampled(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)
