"""The student: from frozen features, pixels and words to the logits of a mask for each expression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.learning.frozen_towers import TowerImages, TowerTexts, TowerWidths
from pseudoris.training.learning.token_layers import SelfAttention
from pseudoris.training.student.fusion import ImageStage, PatchRound, WordReader, WordStage, grid_places
from pseudoris.training.student.mask_decoder import KernelDecoder, PixelStem
from pseudoris.training.student.student_config import ModelConfig


@dataclass(slots=True)
class StudentInput:
    """What a forward pass takes: U images, and T expressions of them.

    Not frozen: Fabric replaces its tensors, for precision and device.

    Attributes:
        pixels: (U, 3, S, S) float32, normalised.
        images: Of the towers.
        texts: Of the towers.
        owners: (T,) int64, the image of each expression.
    """

    pixels: torch.Tensor
    images: TowerImages
    texts: TowerTexts
    owners: torch.Tensor


class RisStudent(nn.Module):
    """All layers that are trained; the frozen towers are not part of it."""

    def __init__(self, config: ModelConfig, widths: TowerWidths) -> None:
        """Draw fresh weights from torch's generator.

        Raises:
            ConfigError: The size of the masks does not fit the towers.
        """
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

    def forward(self, given: StudentInput) -> tuple[torch.Tensor, torch.Tensor]:
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

    def _responses(self, given: StudentInput) -> torch.Tensor:
        """Return how much each patch fits its text by the CLIP itself, (T, h · w, 1), about 1 in its spread."""
        dense = F.normalize(given.images.dense.flatten(2), dim=1)[given.owners]
        cosines = torch.einsum("tdn,td->tn", dense, F.normalize(given.texts.embedding, dim=1))
        centred = cosines - cosines.mean(1, keepdim=True)
        return (centred / (centred.std(1, keepdim=True) + 1e-4))[..., None]
