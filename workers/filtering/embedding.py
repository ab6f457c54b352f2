"""CLIP embeddings of crops and texts, in tiles of one fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from schemas.config import ComputeConfig, FilterConfig, WeightsConfig
from schemas.errors import ConfigError
from schemas.measures import BATCH_FILL, record
from workers.checkpoints.models import load_clip
from workers.checkpoints.openclip import read_model_config
from workers.checkpoints.weights import OPEN_CLIP_PREFIX
from workers.compilation import compile_tower
from workers.device import compute_dtype, prepare_device, to_device
from workers.filtering.text_tower import TextTower
from workers.filtering.tokens import TextTokeniser
from workers.images.crops import CropFormat

# A tile has room for `batch_size` texts of so many tokens.
_TOKENS_A_TEXT = 16


class ClipEmbedder:
    """A CLIP on its device; embeddings come back normalised, float32, on the CPU.

    Crops are computed in tiles of `batch_size`, texts in tiles of as many tokens, the last one padded with zeros,
    because a matrix product rounds by the shape of the whole batch (measured: the last bits of a Linear differ between
    125 rows and 62). For the same reason texts share a tile with texts of one length alone, as `TextTower` rounds it.

    Attributes:
        device: Where the model computes.
        crop_format: What its image tower takes.
    """

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load the model; `ConfigError` where weights are missing or the text tower is not a plain CLIP's."""
        self.device = prepare_device(compute)
        self._dtype = compute_dtype(compute)
        self._batch_size = config.batch_size
        text_config = read_model_config(config.architecture)["text_cfg"]
        if "hf_tokenizer_name" in text_config:
            raise ConfigError(
                f"filtering.architecture={config.architecture!r} reads texts with the tokenizer "
                f"{text_config['hf_tokenizer_name']!r}, and the clip engine has open_clip's own BPE only: "
                "choose another architecture, or add it as an engine of its own"
            )
        model = load_clip(config.architecture, config.weights)
        self._model = model.to(device=self.device, dtype=self._dtype)
        if compute.is_compiled:
            # Crops come in tiles of one size.
            compile_tower(self._model.visual)
        self._text = TextTower(self._model)
        self._tokenise = TextTokeniser(int(model.context_length))
        self.crop_format = crop_format(model, config.weights)

    def embed_crops(self, crops: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return (K, D) float32, a row a crop, in order.

        Args:
            crops: Pieces (n, 3, S, S) float32 in `crop_format`, K crops in all; read one after another, so that a
                shard's crops are never in memory together.
        """
        return embed_in_tiles(crops, self._encode_crops, tile=self._batch_size, of="filter crops")

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, D) float32, a row a text; what exceeds the model's context is cut off."""
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
        embedded = torch.cat(parts)
        return torch.empty_like(embedded).index_copy_(0, torch.cat(rows), embedded)

    def _texts_a_tile(self, length: int) -> int:
        """Return how many texts of a length share a tile: as many tokens for each, so that the last holds few rows."""
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
    """Return `encode` of all rows of all pieces, in order, called on exactly `tile` rows each time.

    Args:
        pieces: Tensors (n, ...) of one trailing shape and dtype; n may be 0, and other than `tile`.
        encode: (tile, ...) to (tile, D).
        tile: Rows a call; the last call is padded with zeros, and what they give is dropped.
        of: What the rows are, for the tiles' recorded fill.

    Returns:
        (rows, D), or (0, 0) where there is no row.
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
    """Return what the image tower takes: its own size, and the mean and std that its weights were trained with.

    Raises:
        ConfigError: The tower takes no square image.
    """
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    if height != width:
        raise ConfigError(
            f"filtering.architecture takes {height} x {width} pixels, and crops are square: choose another"
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
    return F.normalize(embeddings.float(), dim=-1).cpu()
