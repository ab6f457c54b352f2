"""The frozen CLIP of a learner: cached features of texts, features of images. For `training` and experiments.

Features do not depend on the batch that they were computed in, nor on the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2.functional import resize

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.training.learning.clip_features import Clip, image_blocks, read_images, read_texts, vision_tower
from pseudoris.training.learning.trainer import TowersConfig
from pseudoris.workers.checkpoints.openclip import load_clip, read_model_config
from pseudoris.workers.crops.crops import CropFormat
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.filtering.clip_embedder import crop_format

Value = TypeVar("Value")
# This many images or texts are read at once, padded with zeros, because a product's rounding depends on its shape.
_IMAGES_A_TILE, _TEXTS_A_TILE = 8, 32
# Cached sentences take at most this many bytes, enough for ten thousand: one of 12 tokens takes 25 kB with a ViT-B.
_TEXT_BYTES: Final = 2**28

_Text = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class FeatureCache(Generic[Value]):
    """Values by key, such as a text, up to a number of bytes; beyond it, the least recently used goes first."""

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._max_bytes, self._size_of = max_bytes, size_of
        self._num_bytes = 0
        # The most recently used value is last, because a dict keeps the order of insertion.
        self._values: dict[str, Value] = {}

    def get(self, key: str) -> Value | None:
        """Return the value of a key, None if there is none."""
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def put(self, key: str, value: Value) -> None:
        """Keep a value, replacing an earlier one of that key, and drop old values until there is room."""
        self._drop(key)
        self._values[key] = value
        self._num_bytes += self._size_of(value)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def read(
        self, keys: Sequence[str], compute: Callable[[Sequence[str]], Iterable[Value]], *, tile: int = sys.maxsize
    ) -> list[Value]:
        """Return the value of each key; those of keys that are not kept are computed, a tile at a time, and kept."""
        kept = {key: self.get(key) for key in keys}
        found = {key: value for key, value in kept.items() if value is not None}
        missing = [key for key in kept if key not in found]
        for first in range(0, len(missing), tile):
            some = missing[first : first + tile]
            for key, value in zip(some, compute(some), strict=True):
                found[key] = value
                self.put(key, value)
        return [found[key] for key in keys]

    def _drop(self, key: str) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._num_bytes -= self._size_of(value)


@dataclass(frozen=True, slots=True)
class TowerWidths:
    """The sizes that a module on top is built for: of the square image in pixels, its patches per side, and channels.

    `image` are those of a stage, `text` of a word, `joint` of the joint space.
    """

    image_size: int
    grid: int
    image: int
    text: int
    joint: int
    num_stages: int

    @property
    def patch(self) -> int:
        """Channels of a patch: its stages, then the joint space."""
        return self.num_stages * self.image + self.joint


# `TowerImages` and `TowerTexts` are not frozen, because Fabric replaces the tensors of a module's input.
@dataclass(slots=True)
class TowerImages:
    """The towers' features of B images, float32: stages (B, S, C, h, w), patches in the joint space (B, D, h, w)."""

    stages: torch.Tensor
    dense: torch.Tensor


@dataclass(slots=True)
class TowerTexts:
    """The towers' features of T texts, cut to the longest, L tokens: words (T, L, C) float32.

    `is_word` (T, L) bool includes start and end, `tokens` (T, L) int64 are CLIP's BPE, and `embedding` (T, D) float32
    is that of the sentence in the joint space.
    """

    words: torch.Tensor
    is_word: torch.Tensor
    tokens: torch.Tensor
    embedding: torch.Tensor


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of an image of `size` (H, W) in a square: scaled to `inner` (h, w), in the middle, as CRIS does."""

    size: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int
    side: int

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Placement:
        """Return the position of an image of a size."""
        scale = side / max(size)
        inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return cls(size, inner, (side - inner[0]) // 2, (side - inner[1]) // 2, side)

    def image(self, image: torch.Tensor, fill: tuple[float, ...]) -> torch.Tensor:
        """Return an image (3, H, W) uint8 in its square (3, S, S) uint8; `fill` in [0, 1] is the value around it."""
        colour = torch.tensor([round(255 * each) for each in fill], dtype=torch.uint8)
        return self._placed(image, colour[:, None, None].repeat(1, self.side, self.side))

    def mask(self, mask: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return which share of each pixel of a smaller square a mask (H, W) bool covers, (m, m) float32."""
        square = self._placed(mask[None].float(), torch.zeros(1, self.side, self.side))
        return F.adaptive_avg_pool2d(square, mask_size)[0]

    def _placed(self, planes: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        scaled = planes if self.inner == self.size else resize(planes, list(self.inner), antialias=True)
        square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]] = scaled
        return square


def frozen_clip(architecture: str, weights: WeightsConfig, *, setting: str) -> tuple[Clip, ClipTokenizer]:
    """Return a CLIP whose patches and words can be read, and its tokenizer; `setting` names it in a refusal."""
    if "hf_tokenizer_name" in read_model_config(architecture)["text_cfg"]:
        raise ConfigError(
            f"{setting}={architecture!r} has a tokenizer of its own, but only open_clip's BPE is supported. Choose "
            "another architecture."
        )
    model: Clip = load_clip(architecture, weights).requires_grad_(False)
    vision_tower(model)
    return model, ClipTokenizer(int(model.context_length))


class FrozenTowers:
    """A frozen CLIP; it caches features of texts, and rounds those of images to float16, as a learner may keep them."""

    def __init__(
        self,
        config: TowersConfig,
        device: torch.device | str = "cpu",
        *,
        settings: tuple[str, str] = ("towers.architecture", "towers.layers"),
    ) -> None:
        """Load the towers; `settings` is what a user calls the architecture and the layers."""
        self._config, self.device = config, torch.device(device)
        self._model, self._tokenise = frozen_clip(config.architecture, config.weights, setting=settings[0])
        visual = vision_tower(self._model.to(self.device))
        # The layers are checked here, so that a wrong setting is refused before a training's folder exists.
        image_blocks(visual, config.layers, setting=settings[1])
        self.image_format: CropFormat = crop_format(self._model, config.weights)
        # Texts above the context, of all that were read: two that differ behind its end have equal tokens.
        self.cut_texts: set[str] = set()
        self._texts = FeatureCache[_Text](_TEXT_BYTES, lambda seen: sum(each.nbytes for each in seen))
        probe = self.encode_texts(["a"])
        self.widths = TowerWidths(
            image_size=self.image_format.size,
            grid=int(visual.grid_size[0]),
            image=int(visual.ln_post.normalized_shape[0]),
            text=probe.words.shape[2],
            joint=probe.embedding.shape[1],
            num_stages=len(config.layers),
        )

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels (B, 3, S, S) uint8 as the image tower takes them, float32."""
        form = self.image_format
        mean, std = (to_device(torch.tensor(each), pixels.device).view(3, 1, 1) for each in (form.mean, form.std))
        return (pixels.float() / 255 - mean) / std

    def read_images(self, pixels: torch.Tensor) -> TowerImages:
        """Return the features of images (B, 3, S, S) uint8, RGB."""
        parts = []
        for some in torch.split(pixels, _IMAGES_A_TILE):
            tile = F.pad(some, (0, 0, 0, 0, 0, 0, 0, _IMAGES_A_TILE - len(some)))
            with torch.inference_mode():
                given = self.normalised(to_device(tile, self.device))
                seen = read_images(self._model, given, layers=self._config.layers)
                read = to_host(torch.stack(seen.stages, 1).half(), seen.dense.half())
            parts.append([torch.from_numpy(each) for each in read])
        stages, dense = (torch.cat(each)[: len(pixels)].float() for each in zip(*parts, strict=True))
        return TowerImages(to_device(stages, self.device), to_device(dense, self.device))

    @property
    def context_length(self) -> int:
        """Return how many tokens of a text are read, start and end included."""
        return self._tokenise.context_length

    def encode_texts(self, texts: Sequence[str]) -> TowerTexts:
        """Return the features of texts; text beyond the context is cut off, see `cut_texts`."""
        rows = self._texts.read(texts, self._read_texts, tile=_TEXTS_A_TILE)
        tokens, words = (pad_sequence([row[part] for row in rows], batch_first=True) for part in (0, 1))
        lengths = torch.tensor([len(row[0]) for row in rows])
        is_word = torch.arange(tokens.shape[1]) < lengths[:, None]
        embedding = torch.stack([row[2] for row in rows])
        return TowerTexts(*(to_device(each, self.device) for each in (words, is_word, tokens, embedding)))

    def _read_texts(self, texts: Sequence[str]) -> Iterator[_Text]:
        """Tokens (L), words (L, C) and sentence (D) of each text, by itself: a row would keep the whole batch."""
        self.cut_texts.update(text for text in texts if self._tokenise.num_tokens(text) > self.context_length)
        tokens = self._tokenise(texts)
        tile = F.pad(tokens, (0, 0, 0, _TEXTS_A_TILE - len(texts)))
        with torch.inference_mode():
            features = read_texts(self._model, to_device(tile, self.device))
            read = to_host(features.is_word.sum(1), features.words, features.embedding)
        lengths, words, embedding = map(torch.from_numpy, read)
        for at, length in enumerate(lengths.tolist()[: len(texts)]):
            yield tokens[at, :length].clone(), words[at, :length].clone(), embedding[at].clone()
