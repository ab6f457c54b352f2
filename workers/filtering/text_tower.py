"""CLIP's text tower without the padding behind a text: a causal tower's output at EOS never reads it.

How far a text is cut follows from its own length, in steps: what it is computed with must not decide the shapes of
its matrices, which decide how they round.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import text_global_pool
from torch import nn

# Tokens from one length to the next. Longer computes more padding, shorter fills more tiles only in part.
LENGTH_STEP: Final = 4


class TextTower:
    """The text side of a CLIP, at the lengths that its texts need."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model`, whose weights are shared."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead, or pools at the end, reads the padding: it gets all of it.
        self.is_cut = isinstance(model, CLIP) and model.attn_mask is not None and model.text_pool_type == "argmax"

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (T,) int64: of each text (T, context) the positions to compute, EOS among them."""
        if not self.is_cut:
            return torch.full((len(tokens),), self.context_length)
        # EOS is the highest token id, which is how the tower finds it itself.
        needed = tokens.argmax(dim=1) + 1
        return ((needed + LENGTH_STEP - 1) // LENGTH_STEP * LENGTH_STEP).clamp(max=self.context_length)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (B, D) of texts cut to one length, (B, L) int64; open_clip's `encode_text` up to rounding."""
        if not self.is_cut:
            features: torch.Tensor = self._model.encode_text(tokens)
            return features
        model, length = self._model, tokens.shape[1]
        dtype = model.transformer.get_cast_dtype()
        hidden = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        pooled: torch.Tensor = text_global_pool(hidden, tokens, model.text_pool_type)
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight, projection.bias)
        return pooled if projection is None else pooled @ projection
