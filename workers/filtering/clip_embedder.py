"""CLIP embeddings of crops and texts, in tiles of one fixed shape.

The text tower runs without the padding after a text: in a causal tower the output at EOS never reads it. A text is cut
to its own length, rounded up in steps. The other texts of its batch do not matter: they must not change the shapes of
matrices, because rounding depends on the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import BATCH_FILL, record
from pseudoris.workers.checkpoints.models import load_clip
from pseudoris.workers.checkpoints.openclip import read_model_config
from pseudoris.workers.checkpoints.weight_catalogue import OPEN_CLIP_PREFIX
from pseudoris.workers.compilation import compile_tower
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.filtering.clip_tokenizer import ClipTokenizer
from pseudoris.workers.images.crops import CropFormat
from pseudoris.workers.transformer_blocks import Block, finish_block

# Tokens from one length to the next. Larger steps compute more padding; smaller ones leave more tiles partly empty.
LENGTH_STEP: Final = 4
# A tile has room for `batch_size` texts of this many tokens.
_TOKENS_A_TEXT = 16


class CausalBlock(Block):
    """A block of a causal tower, over whole sequences."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of `block`, which must not change."""
        super().__init__(block, finish=finish_block)
        self._queries_keys_values = self.linear(block.attn.in_proj_weight, block.attn.in_proj_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output (B, L, D) for its input (B, L, D)."""
        queries, keys, values = self._heads(x)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.finish(x, mixed.transpose(1, 2).reshape(x.shape))

    def at(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the output (B, D) at one position of each sequence, positions (B,) int64."""
        num_texts, length, width = x.shape
        queries, keys, values = self._heads(x)
        rows = torch.arange(num_texts, device=x.device)
        is_seen = torch.arange(length, device=x.device) <= positions[:, None]
        mixed = F.scaled_dot_product_attention(
            queries[rows, :, positions][:, :, None], keys, values, attn_mask=is_seen[:, None, None]
        )
        return self.finish(x[rows, positions], mixed.reshape(num_texts, width))

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values (B, H, L, d)."""
        together = self._queries_keys_values(self.ln_1(x)).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = together.permute(2, 0, 3, 1, 4)
        return queries, keys, values


class TextTower:
    """The text side of a CLIP, computed at the lengths that its texts need."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model` and share its weights."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead, or pools at the end, reads the padding, so its texts are not cut.
        self.is_cut = (
            isinstance(model, CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and all(isinstance(block, ResidualAttentionBlock) for block in model.transformer.resblocks)
        )
        self._blocks = [CausalBlock(block) for block in model.transformer.resblocks] if self.is_cut else []

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (T,) int64: for each text of (T, context) the number of positions to compute, EOS included."""
        if not self.is_cut:
            return torch.full((len(tokens),), self.context_length)
        # EOS has the highest token id; the tower finds it the same way.
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
        for block in self._blocks[:-1]:
            hidden = block(hidden)
        # After the last block only the position of EOS (the highest token id) is read.
        pooled: torch.Tensor = model.ln_final(self._blocks[-1].at(hidden, tokens.argmax(dim=1)))
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight, projection.bias)
        return pooled if projection is None else pooled @ projection


class ClipEmbedder:
    """A CLIP on its device. Embeddings are returned normalised, float32, on the CPU.

    Crops are computed in tiles of `batch_size`, texts in tiles of a fixed number of tokens. The last tile is padded
    with zeros, because the rounding of a matrix product depends on the shape of the whole batch (measured: the last
    bits of a Linear differ between 125 rows and 62). For the same reason a tile holds texts of one length only, as
    rounded up by `TextTower`.

    Attributes:
        device: The device that computes.
        crop_format: The input of its image tower.
    """

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load the model; `ConfigError` if weights are missing or the text tower is not a plain CLIP's."""
        self.device = prepare_device(compute)
        self._dtype = compute_dtype(compute)
        self._batch_size = config.batch_size
        text_config = read_model_config(config.architecture)["text_cfg"]
        if "hf_tokenizer_name" in text_config:
            raise ConfigError(
                f"filtering.architecture={config.architecture!r} needs the tokenizer "
                f"{text_config['hf_tokenizer_name']!r}, but the clip engine has only open_clip's own "
                "BPE: choose another architecture, or add a plug-in engine for it"
            )
        model = load_clip(config.architecture, config.weights)
        self._model = model.to(device=self.device, dtype=self._dtype)
        if compute.is_compiled:
            # Crops arrive in tiles of one size.
            compile_tower(self._model.visual)
        self._text = TextTower(self._model)
        self._tokenise = ClipTokenizer(int(model.context_length))
        self.crop_format = replace(crop_format(model, config.weights), has_antialiasing=config.has_antialiasing)

    def embed_crops(self, crops: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return (K, D) float32, a row per crop, in order.

        Args:
            crops: Pieces (n, 3, S, S) float32 in `crop_format`, K crops in all. They are read one by one, so that a
                shard's crops are never all in memory.
        """
        embedded = embed_in_tiles(crops, self._encode_crops, tile=self._batch_size, of="filter crops")
        return torch.from_numpy(to_host(embedded)[0])

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, D) float32, a row per text; a text is cut to the model's context length."""
        if not texts:
            return torch.zeros(0, 0)
        tokens = self._tokenise(texts)
        lengths = self._text.lengths(tokens)
        parts: list[torch.Tensor] = []
        rows: list[torch.Tensor] = []
        for length in sorted(set(lengths.tolist())):
            rows.append((lengths == length).nonzero().flatten())
            alike = tokens[rows[-1], :length]
            parts.append(
                embed_in_tiles([alike], self._encode_tokens, tile=self._texts_a_tile(length), of="filter texts")
            )
        embedded = torch.from_numpy(to_host(torch.cat(parts))[0])
        return torch.empty_like(embedded).index_copy_(0, torch.cat(rows), embedded)

    def _texts_a_tile(self, length: int) -> int:
        """Return how many texts of a length share a tile: as many as fit into its number of tokens."""
        return max(1, self._batch_size * _TOKENS_A_TEXT // length)

    @torch.inference_mode()
    def _encode_crops(self, crops: torch.Tensor) -> torch.Tensor:
        return _normalised(self._model.encode_image(crops.to(device=self.device, dtype=self._dtype)))

    @torch.inference_mode()
    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        return _normalised(self._text.encode(to_device(tokens, self.device)))


def embed_in_tiles(
    pieces: Iterable[torch.Tensor], encode: Callable[[torch.Tensor], torch.Tensor], *, tile: int, of: str = "rows"
) -> torch.Tensor:
    """Return `encode` of all rows of all pieces, in order. Each call gets exactly `tile` rows.

    Args:
        pieces: Tensors (n, ...) of one trailing shape and dtype; n may differ, also be 0.
        encode: (tile, ...) to (tile, D).
        tile: Rows in a call. The last call is padded with zeros, whose results are dropped.
        of: What the rows are, for the measurement of how full the tiles are.

    Returns:
        (rows, D), or (0, 0) if there are no rows.
    """
    done: list[torch.Tensor] = []
    waiting: torch.Tensor | None = None
    for piece in pieces:
        waiting = piece if waiting is None else torch.cat([waiting, piece])
        while len(waiting) >= tile:
            record(BATCH_FILL, 1.0, of=of)
            done.append(encode(waiting[:tile]))
            waiting = waiting[tile:]
    if waiting is not None and len(waiting):
        record(BATCH_FILL, len(waiting) / tile, of=of)
        padding = waiting.new_zeros(tile - len(waiting), *waiting.shape[1:])
        done.append(encode(torch.cat([waiting, padding]))[: len(waiting)])
    return torch.cat(done) if done else torch.zeros(0, 0)


def crop_format(model: open_clip.CLIP | open_clip.CustomTextCLIP, weights: WeightsConfig) -> CropFormat:
    """Return the image tower's input: its size, and the mean and std that its weights were trained with.

    Raises:
        ConfigError: The tower's input is not square.
    """
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    if height != width:
        raise ConfigError(
            f"filtering.architecture takes {height} x {width} pixels, but crops are square: choose another"
        )
    tag: dict[str, tuple[float, float, float]] = {}
    if weights.uri.startswith(OPEN_CLIP_PREFIX):
        name, _, pretrained = weights.uri.removeprefix(OPEN_CLIP_PREFIX).rpartition("/")
        tag = open_clip.get_pretrained_cfg(name, pretrained) or {}
    return CropFormat(
        size=int(height),
        mean=tuple(tag.get("mean") or OPENAI_DATASET_MEAN),
        std=tuple(tag.get("std") or OPENAI_DATASET_STD),
    )


def _normalised(embeddings: torch.Tensor) -> torch.Tensor:
    return F.normalize(embeddings.float(), dim=-1)
