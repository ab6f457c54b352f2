"""The segmenter: from frozen features, pixels and words to the logits of a mask for each expression.

Words are the text tower's features and a fixed code that differs for any two tokens. They read the image stage by
stage; then an expression's patches read its words. In the spirit of ETRIS's bridger (Xu et al., "Bridging Vision and
Language Encoders", ICCV 2023): the towers stay frozen, and narrow layers combine both at several depths of the image
tower. What depends on the image alone is computed once for all of its expressions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from evidence.experiments.segmenter.segmenter_config import ModelConfig
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.learning.frozen_towers import TowerImages, TowerTexts, TowerWidths
from pseudoris.training.learning.token_layers import (
    Perceptron,
    ProductAttention,
    SelfAttention,
    TokenCrossAttention,
    WordReader,
)


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


class ImageStage(nn.Module):
    """One stage of the image: adds the tower's features of this depth, patch by patch."""

    def __init__(self, image_width: int, width: int, *, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width))
        self.think = Perceptron(width, mlp_ratio, dropout=dropout)

    def forward(self, patches: torch.Tensor, stage: torch.Tensor) -> torch.Tensor:
        """Return patches (U, N, width), of patches and the tower's (U, N, image width)."""
        out: torch.Tensor = self.think(patches + self.project(stage))
        return out


class WordStage(nn.Module):
    """Words read the patches of a stage, then each other."""

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.read = TokenCrossAttention(width, num_heads, dropout=dropout)
        self.attend = SelfAttention(width, num_heads, dropout=dropout)
        self.think = Perceptron(width, mlp_ratio, dropout=dropout)

    def forward(
        self, words: torch.Tensor, patches: torch.Tensor, is_word: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return words (T, L, width); patches are (T, N, width), or with `owners` (U, N, width)."""
        words = self.read(words, patches, owners=owners)
        out: torch.Tensor = self.think(self.attend(words, is_word=is_word))
        return out


class PatchRound(ProductAttention):
    """An expression's patches read its words, are multiplied with them, and show roughly where they point."""

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: int) -> None:
        super().__init__(width, num_heads)
        self.out = nn.Linear(3 * width, width)
        # Without drop-out: for so many tokens the draw costs more than it helps.
        self.think = Perceptron(width, mlp_ratio, dropout=0.0)
        # Without a bias: patches compete in a softmax.
        self.show = nn.Linear(width, 1, bias=False)

    def forward(
        self, patches: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patches (T, N, width) and logits (T, N) of the target at each."""
        patches = self.think(patches + self.out(self.compared_with_words(patches, words, is_word)))
        return patches, self.show(patches)[..., 0]


def grid_places(grid: int, width: int) -> torch.Tensor:
    """Return places (grid · grid, width) of patches row by row: sines and cosines of x and y in octaves.

    Half of the width encodes x, half y; wavelengths run from twice the image down to four patches.
    """
    steps = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    octaves = torch.linspace(0, torch.log2(torch.tensor(grid / 2.0)).item(), width // 4)
    angles = torch.pi * steps[:, None] * 2**octaves
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return torch.cat([waves[x.flatten()], waves[y.flatten()]], 1)


@dataclass(slots=True)
class SegmenterInput:
    """What a forward pass takes: U images, and T expressions of them.

    Not frozen: Fabric replaces its tensors, for precision and device.

    Attributes:
        pixels: (U, 3, S, S) float32, normalised.
        images: Image features of the towers.
        texts: Text features of the towers.
        owners: (T,) int64, the image of each expression.
    """

    pixels: torch.Tensor
    images: TowerImages
    texts: TowerTexts
    owners: torch.Tensor


class Segmenter(nn.Module):
    """All layers that are trained; the frozen towers are not part of it."""

    def __init__(self, config: ModelConfig, widths: TowerWidths) -> None:
        """Draw fresh weights from torch's generator."""
        super().__init__()
        if widths.image_size % config.mask_size or config.mask_size % (2 * widths.grid):
            raise ConfigError(
                f"model.mask_size={config.mask_size} must divide the towers' image size of {widths.image_size} "
                f"pixels. It must also be a multiple of twice the {widths.grid} patches per side."
            )
        width, drop = config.width, config.dropout
        shared = {"num_heads": config.num_heads, "mlp_ratio": config.mlp_ratio}
        self.words = WordReader(
            widths.text, width, code_width=config.word_code_width, num_heads=config.num_heads, dropout=drop
        )
        self.stem = PixelStem(
            mask_size=config.mask_size,
            grid=widths.grid,
            stem_width=config.stem_width,
            width=width,
            kernel_width=config.kernel_width,
        )
        stages = range(widths.num_stages)
        self.image_stages = nn.ModuleList(
            ImageStage(widths.image, width, mlp_ratio=config.mlp_ratio, dropout=drop) for _ in stages
        )
        self.neighbours = nn.ModuleList(
            SelfAttention(width, config.num_heads, dropout=drop) for _ in range(config.num_patch_layers)
        )
        self.word_stages = nn.ModuleList(WordStage(width, dropout=drop, **shared) for _ in stages)
        self.response = nn.Linear(1, width)
        self.rounds = nn.ModuleList(PatchRound(width, **shared) for _ in range(config.num_rounds))
        # Between two rounds words read what the former made of the patches.
        self.again = nn.ModuleList(WordStage(width, dropout=drop, **shared) for _ in range(config.num_rounds - 1))
        self.decoder = KernelDecoder(width, config.kernel_width, grid=widths.grid, mask_size=config.mask_size)
        self.register_buffer("places", grid_places(widths.grid, width), persistent=False)

    def forward(self, given: SegmenterInput) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (T, m, m) of the masks, and rough ones (T, rounds, h, w) on the grid of patches."""
        owners, texts = given.owners, given.texts
        seen, pixels = self.stem(given.pixels)
        stages = given.images.stages.flatten(3).transpose(2, 3)
        words = self.words(texts)
        patches = seen.flatten(2).transpose(1, 2) + self.places
        for number, (image_stage, word_stage) in enumerate(zip(self.image_stages, self.word_stages, strict=True)):
            patches = image_stage(patches, stages[:, number])
            words = word_stage(words, patches, texts.is_word, owners)
        for layer in self.neighbours:
            patches = layer(patches)
        own = patches[owners] + self.response(self._responses(given))
        rough = []
        for number, patch_round in enumerate(self.rounds):
            if number:
                words = self.again[number - 1](words, own, texts.is_word)
            own, shown = patch_round(own, words, texts.is_word)
            rough.append(shown.unflatten(1, given.images.stages.shape[-2:]))
        return self.decoder(own, pixels, owners), torch.stack(rough, 1)

    def _responses(self, given: SegmenterInput) -> torch.Tensor:
        """Return how much each patch fits its text by the CLIP itself, (T, h · w, 1), about 1 in its spread."""
        dense = F.normalize(given.images.dense.flatten(2), dim=1)[given.owners]
        cosines = torch.einsum("tdn,td->tn", dense, F.normalize(given.texts.embedding, dim=1))
        centred = cosines - cosines.mean(1, keepdim=True)
        return (centred / (centred.std(1, keepdim=True) + 1e-4))[..., None]
