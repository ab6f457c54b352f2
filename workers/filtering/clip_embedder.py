"""CLIP embeddings of crops and texts, in tiles of one fixed shape: rounding depends on the shape of a product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from pseudoris.schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import BATCH_FILL, record
from pseudoris.workers.checkpoints.openclip import load_clip, read_model_config
from pseudoris.workers.checkpoints.weight_catalogue import OPEN_CLIP_PREFIX
from pseudoris.workers.compilation import compile_tower
from pseudoris.workers.crops.crops import CropFormat
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.filtering.clip_tokenizer import ClipTokenizer
from pseudoris.workers.filtering.image_tower import memory_format, simplify_tower, tile_size
from pseudoris.workers.filtering.text_tower import TextTower, tokens_of
from pseudoris.workers.filtering.text_tree import TextTile, cut_into_tiles

# A tile of texts has room for `batch_size` of this many tokens that no other text shares.
_TOKENS_A_TEXT: Final = 16


class ClipEmbedder:
    """A CLIP on its device. Embeddings are returned normalised, float32, on the CPU.

    Crops are computed in tiles of a fixed number, texts in tiles of a fixed number of prefixes. The last tile is
    padded, because the rounding of a matrix product depends on the shape of the whole batch (measured: the last bits of
    a Linear differ between 125 rows and 62).

    Attributes:
        device: The device that computes.
        crop_format: The input of its image tower.
    """

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load the model; `ConfigError` if weights are missing or the text tower is not a plain CLIP's."""
        self.device = prepare_device(compute)
        self._dtype = compute_dtype(compute)
        self._crops_a_tile = tile_size(config.batch_size, self.device)
        self._nodes_a_tile = config.batch_size * _TOKENS_A_TEXT
        text_config = read_model_config(config.architecture)["text_cfg"]
        if "hf_tokenizer_name" in text_config:
            raise ConfigError(
                f"filtering.architecture={config.architecture!r} needs the tokenizer "
                f"{text_config['hf_tokenizer_name']!r}, but the clip engine has only open_clip's own "
                "BPE: choose another architecture, or add a plug-in engine for it"
            )
        model = load_clip(config.architecture, config.weights)
        simplify_tower(model.visual)
        self._layout = memory_format(model.visual, self.device)
        self._model = model.to(device=self.device, dtype=self._dtype)
        self._model.visual.to(memory_format=self._layout)
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
        embedded = embed_in_tiles(crops, self._encode_crops, tile=self._crops_a_tile, of="filter crops")
        return torch.from_numpy(to_host(embedded)[0])

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, D) float32, a row per text; a text is cut to the model's context length."""
        if not texts:
            return torch.zeros(0, 0)
        contexts = self._tokenise(texts)
        # The longest text must fit.
        num_nodes = max(self._nodes_a_tile, self._text.context_length)
        if not self._text.is_tree:
            num_texts = num_nodes // self._text.context_length
            embedded = embed_in_tiles([contexts], self._encode_contexts, tile=num_texts, of="filter texts")
            return torch.from_numpy(to_host(embedded)[0])
        parts, numbers = [], []
        for tile in cut_into_tiles(tokens_of(contexts), num_nodes):
            record(BATCH_FILL, tile.num_used / num_nodes, of="filter texts")
            parts.append(self._encode_tile(tile))
            numbers.append(torch.from_numpy(tile.texts))
        embedded = torch.from_numpy(to_host(torch.cat(parts))[0])
        return torch.empty_like(embedded).index_copy_(0, torch.cat(numbers), embedded)

    @torch.inference_mode()
    def _encode_crops(self, crops: torch.Tensor) -> torch.Tensor:
        crops = crops.to(device=self.device, dtype=self._dtype, memory_format=self._layout)
        return _normalised(self._model.encode_image(crops))

    @torch.inference_mode()
    def _encode_contexts(self, contexts: torch.Tensor) -> torch.Tensor:
        return _normalised(self._model.encode_text(to_device(contexts, self.device)))

    @torch.inference_mode()
    def _encode_tile(self, tile: TextTile) -> torch.Tensor:
        return self._text.encode_tile(tile)


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
