"""The chooser's network, for `chooser_training`: gives each mask of an image a score for each expression.

Masks read the words, then one another: whether a mask is "left" or "the largest" depends on the other masks. What
depends on the image alone is computed once for all of its expressions. The names of the parameters are the keys of
checkpoints, and the order in which modules are made decides the weights of a seed: neither may change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.training.chooser.candidate_masks import GEOMETRY_WIDTH, PAIR_WIDTH
from pseudoris.training.chooser.chooser_config import ChooserConfig, ModelConfig
from pseudoris.training.learning.frozen_towers import TowerTexts, TowerWidths
from pseudoris.training.learning.token_layers import Perceptron, ProductAttention, WordReader


@dataclass(slots=True)
class ChooserInput:
    """What a forward pass takes: U images of up to N masks, as `Candidates` has them, and T expressions of them.

    Not frozen: Fabric replaces its tensors, for precision and device.

    Attributes:
        crops: (U, N, K · D) float32; `pooled` (U, N, C), `geometry` (U, N, 7) and `pairs` (U, N, N, 8) likewise.
        is_mask: (U, N) bool; the others are padding.
        owners: (T,) int64, the image of each expression.
        cosines: (T, N, S) float32: of CLIP, centred over the masks of an image.
        levels: (T, 2 · S) float32: of CLIP's cosines as they are, the highest and the mean over the masks of an image.
    """

    crops: torch.Tensor
    pooled: torch.Tensor
    geometry: torch.Tensor
    pairs: torch.Tensor
    is_mask: torch.Tensor
    owners: torch.Tensor
    texts: TowerTexts
    cosines: torch.Tensor
    levels: torch.Tensor


class MaskReader(nn.Module):
    """Brings what is known of a mask to the width of the layers."""

    def __init__(self, crop_width: int, pooled_width: int, width: int) -> None:
        super().__init__()
        self.of_crops = nn.Sequential(nn.LayerNorm(crop_width), nn.Linear(crop_width, width))
        self.of_pooled = nn.Sequential(nn.LayerNorm(pooled_width), nn.Linear(pooled_width, width))
        self.of_geometry = nn.Sequential(nn.Linear(GEOMETRY_WIDTH, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, given: ChooserInput) -> torch.Tensor:
        """Return masks (U, N, width)."""
        out: torch.Tensor = self.of_crops(given.crops) + self.of_pooled(given.pooled) + self.of_geometry(given.geometry)
        return out


class PairAttention(nn.Module):
    """The masks of an image read one another, and how each lies to the reader: x + Attention(norm(x))."""

    def __init__(self, width: int, num_heads: int, *, has_pairs: bool) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Linear(PAIR_WIDTH, num_heads) if has_pairs else None
        self.lie = nn.Linear(PAIR_WIDTH * num_heads, width) if has_pairs else None

    def forward(self, masks: torch.Tensor, pairs: torch.Tensor, is_mask: torch.Tensor) -> torch.Tensor:
        """Return (T, N, width), of masks (T, N, width), pairs (T, N, N, 8) and which masks there are (T, N) bool."""
        heads = self._num_heads
        both = self.query_key_value(self.norm(masks)).view(*masks.shape[:2], 3, heads, -1)
        query, key, value = both.permute(2, 0, 3, 1, 4)
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)
        if self.bias is not None:
            scores = scores + self.bias(pairs).permute(0, 3, 1, 2)
        weights = scores.masked_fill(~is_mask[:, None, None, :], float("-inf")).softmax(-1)
        out: torch.Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        if self.lie is not None:
            seen = torch.einsum("thij,tijp->tihp", weights, pairs)
            out = out + self.lie(seen.flatten(2))
        return masks + out


class ChooserLayer(ProductAttention):
    """Masks read the words and are multiplied with them, then read one another."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.width, config.num_heads)
        self.out = nn.Linear(3 * config.width, config.width)
        self.others = PairAttention(config.width, config.num_heads, has_pairs=config.has_relative_geometry)
        self.think = Perceptron(config.width, config.mlp_ratio, dropout=config.dropout)

    def forward(
        self,
        masks: torch.Tensor,
        words: torch.Tensor,
        is_word: torch.Tensor,
        *,
        pairs: torch.Tensor,
        is_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return masks (T, N, width)."""
        masks = masks + self.out(self.compared_with_words(masks, words, is_word))
        out: torch.Tensor = self.think(self.others(masks, pairs, is_mask))
        return out


class Chooser(nn.Module):
    """All layers that are trained; the frozen towers are not part of it."""

    min_none: torch.Tensor
    trusted_levels: torch.Tensor

    def __init__(self, settings: ChooserConfig, widths: TowerWidths, *, crop_width: int, num_cosines: int) -> None:
        """Draw fresh weights from torch's generator; `crop_width` is K · D, `num_cosines` S of `ChooserInput`."""
        super().__init__()
        config = settings.model
        self.masks = MaskReader(crop_width, widths.patch, config.width)
        code_width, num_heads = config.word_code_width, config.num_heads
        self.words = WordReader(
            widths.text, config.width, code_width=code_width, num_heads=num_heads, dropout=config.dropout
        )
        self.of_cosines = nn.Linear(num_cosines, config.width)
        self.layers = nn.ModuleList(ChooserLayer(config) for _ in range(config.num_layers))
        self.score = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 1, bias=False))
        # The weights of all cosines begin at 1, so that an untrained chooser answers as CLIP does.
        self.trusted = nn.Parameter(torch.ones(num_cosines))
        # The answer "none of these" is one more mask, of which nothing is known. It is drawn last: the other weights of
        # a seed are then those of a chooser without it.
        self.none = nn.Parameter(0.02 * torch.randn(config.width)) if settings.answers_none else None
        if settings.answers_none:
            # These weights of `levels` and of a constant change the logit of "none". They are 0 until they are fitted.
            self.register_buffer("trusted_levels", torch.zeros(2 * num_cosines + 1))
            # From this probability on, the answer is "none". NaN means that it is not yet chosen on development scenes.
            self.register_buffer("min_none", torch.tensor(float("nan")))

    def forward(self, given: ChooserInput) -> torch.Tensor:
        """Return logits (T, N) of the masks, -inf where there is none.

        With the answer "none of these", logits are (T, 1 + N), and its own come first.
        """
        owners, texts = given.owners, given.texts
        words = self.words(texts)
        masks = self.masks(given)[owners] + self.of_cosines(given.cosines)
        pairs, is_mask, cosines = given.pairs[owners], given.is_mask[owners], given.cosines
        if self.none is not None:
            masks = torch.cat([self.none.expand(len(masks), 1, -1), masks], 1)
            pairs, is_mask = F.pad(pairs, (0, 0, 1, 0, 1, 0)), F.pad(is_mask, (1, 0), value=True)
            cosines = F.pad(cosines, (0, 0, 1, 0))
        for layer in self.layers:
            masks = layer(masks, words, texts.is_word, pairs=pairs, is_mask=is_mask)
        logits: torch.Tensor = self.score(masks)[..., 0] + cosines @ self.trusted
        if self.none is not None:
            shift = F.pad(given.levels, (0, 1), value=1.0) @ self.trusted_levels
            logits = logits + F.pad(shift[:, None], (0, logits.shape[1] - 1))
        return logits.masked_fill(~is_mask, float("-inf"))
