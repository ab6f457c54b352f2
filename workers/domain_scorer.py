"""How far an image lies from what SAM knows: the distance to its near neighbours among known images. No torch.

The embedding is the mean of SAM's image embedding over the image's positions, as its mask decoder reads it. Embeddings
are whitened by the covariance of the known images. The score is the distance to the third nearest of them, scaled so
that 1 is usual for a known image. Of the layers and rules that were compared on development images, this one parts
drawings from photographs most widely: a rare kind of drawing has neighbours, where it is far from the mean.

`NumpyEncoder` is SAM's image encoder for a process that starts a run: it has no torch, which takes seconds to load.

Source: Sun et al. 2022, arXiv 2204.06507 (distance to the k-th nearest neighbour in a trained network's features).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture, sam_architecture
from pseudoris.workers.checkpoints.weight_files import local_file, random_seed, verified_digest

# The only entry of the file's metadata: safetensors writes several in any order, and the file's bytes are digested.
ENCODER_KEY: Final = "encoder_sha256"
# Engines whose images the preset's models see: ready masks are captioned by its other models. Of a plug-in's models
# nothing is known.
_READY: Final = "ready"
_ENGINES: Final = ("sam", _READY)
# The third: a few known images that are themselves odd do not make a neighbourhood.
NEIGHBOUR: Final = 3


@dataclass(frozen=True)
class DomainStatistics:
    """What a preset ships.

    Attributes:
        whitening: (C, C) float32; an embedding times it is comparable.
        known: (N, C) float16, the whitened embeddings of known images.
        max_score: The highest score that is inside.
        encoder_sha256: Digest of the SAM weights that made the embeddings.
    """

    whitening: Floats
    known: NDArray[np.float16]
    max_score: float
    encoder_sha256: str

    def score(self, embedding: Floats) -> float:
        """Return the distance of an embedding (C,) to the third nearest of the known images."""
        return float(near_distances(embedding[None] @ self.whitening, self.known, NEIGHBOUR)[0])


def near_distances(points: Floats, known: NDArray[np.floating], neighbour: int) -> Floats:
    """Return (P,), the distance of each point (P, C) to the nearest, second, … `neighbour`th of the known (N, C)."""
    near = [np.partition(np.linalg.norm(known - point, axis=1), neighbour - 1)[neighbour - 1] for point in points]
    return np.array(near, np.float32)


def read_statistics(weights: WeightsConfig) -> DomainStatistics:
    """Return the statistics of a file that `recipes.domain_recipe.write_statistics` wrote."""
    path = local_file(weights)
    verified_digest(weights, path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("whitening", "known", "max_score")}
            encoder = (file.metadata() or {})[ENCODER_KEY]
    except (SafetensorError, KeyError, OSError) as error:
        raise ConfigError(f"domain.weights.uri '{weights.uri}' holds no statistics of a domain: {error}") from error
    return DomainStatistics(tensors["whitening"], tensors["known"], round(float(tensors["max_score"][0]), 4), encoder)


@dataclass(frozen=True)
class DomainScorer:
    """Scores images by a run's own SAM: its encoder, and what its embeddings are compared with."""

    encoder: NumpyEncoder
    statistics: DomainStatistics

    def __call__(self, pixels: NDArray[np.uint8]) -> float:
        """Return the score of an image (H, W, 3) uint8 RGB, upright."""
        return self.statistics.score(image_embedding(self.encoder, pixels))


def load_scorer(config: RunConfig) -> DomainScorer | None:
    """Return the scorer of a run; None if its preset has none, or if its SAM is absent or not the one measured.

    The SAM is that of `masks.weights`.
    """
    if config.domain is None or config.masks.engine not in _ENGINES or random_seed(config.masks.weights) is not None:
        return None
    statistics = read_statistics(config.domain.weights)
    try:
        path = local_file(config.masks.weights)
    except ConfigError:
        # Ready masks need no SAM, so it need not be here.
        if config.masks.engine == _READY:
            return None
        raise
    if verified_digest(config.masks.weights, path) != statistics.encoder_sha256:
        return None
    return DomainScorer(load_encoder(config.masks.architecture, config.masks.weights), statistics)


def load_encoder(architecture: str | None, weights: WeightsConfig) -> NumpyEncoder:
    """Return the image encoder of a SAM."""
    path = local_file(weights)
    try:
        return NumpyEncoder(sam_architecture(architecture), load_file(path))
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"weights '{weights.uri}' cannot be read for the score of the domain: {error}. It needs SAM's weights as "
            "safetensors, of the architecture in masks.architecture"
        ) from error


def image_embedding(encoder: NumpyEncoder, pixels: NDArray[np.uint8]) -> Floats:
    """Return the mean embedding (C,) of an image (H, W, 3) uint8 RGB: of its central square, resized to its input.

    Cut, not padded: padding is unlike every training image, so the shape alone would decide.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    image = Image.fromarray(pixels)
    box = (left, top, left + side, top + side)
    square = image.resize((encoder.side_px, encoder.side_px), Image.Resampling.BILINEAR, box=box)
    mean: Floats = encoder(np.asarray(square)).mean(axis=(1, 2))
    return mean


Floats: TypeAlias = NDArray[np.float32]

# Source: segment-anything 1.0, build_sam.py and common.py: for RGB in [0, 255].
_PIXEL_MEAN: Final = np.array([123.675, 116.28, 103.53], np.float32)
_PIXEL_STD: Final = np.array([58.395, 57.12, 57.375], np.float32)
_EPSILON: Final = 1e-6
# Source: Abramowitz and Stegun 1964, formula 7.1.26; its error is below 1.5e-7. SciPy's takes 0.3 s to import.
_ERF_SLOPE: Final = 0.3275911
_ERF_TERMS: Final = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_PREFIX: Final = "image_encoder."


class NumpyEncoder:
    """The image encoder of a SAM."""

    def __init__(self, architecture: SamArchitecture, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        """Take the encoder's tensors.

        Args:
            architecture: The numbers that the weights were made with.
            tensors: SAM's weights by name; those of the other parts are ignored.

        Raises:
            KeyError: A tensor is missing.
            ValueError: A tensor has another shape than the architecture says.
        """
        self._architecture = architecture
        self._tensors = {
            name.removeprefix(_PREFIX): np.ascontiguousarray(tensor, np.float32)
            for name, tensor in tensors.items()
            if name.startswith(_PREFIX)
        }
        grid, width = self.grid, architecture.encoder_width
        if self._tensors["pos_embed"].shape != (1, grid, grid, width):
            raise ValueError(f"pos_embed is {self._tensors['pos_embed'].shape}, expected (1, {grid}, {grid}, {width})")

    @property
    def side_px(self) -> int:
        """Width and height of its input."""
        return self._architecture.image_size

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self._architecture.image_size // self._architecture.patch_size

    def __call__(self, pixels: NDArray[np.uint8]) -> Floats:
        """Return the embedding (C, h, w) of an image (S, S, 3) uint8 RGB of the encoder's own size.

        Raises:
            ValueError: The image has another size.
        """
        side = self.side_px
        if pixels.shape != (side, side, 3):
            raise ValueError(f"the image is {pixels.shape}, expected ({side}, {side}, 3)")
        tokens = self._patches((pixels.astype(np.float32) - _PIXEL_MEAN) / _PIXEL_STD) + self._tensors["pos_embed"][0]
        for number in range(self._architecture.encoder_depth):
            tokens = self._block(tokens, number)
        return self._neck(tokens).transpose(2, 0, 1)

    def _patches(self, image: Floats) -> Floats:
        """Return the embedded patches (h, w, C): a convolution whose stride is its kernel is one product."""
        grid, patch = self.grid, self._architecture.patch_size
        weight = self._tensors["patch_embed.proj.weight"]
        cut = image.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 4, 1, 3).reshape(grid * grid, -1)
        flat = cut @ weight.reshape(len(weight), -1).T + self._tensors["patch_embed.proj.bias"]
        return flat.reshape(grid, grid, -1)

    def _block(self, tokens: Floats, number: int) -> Floats:
        place, window = f"blocks.{number}.", self._architecture.window_size
        is_global = number in self._architecture.encoder_global_blocks or window == 0
        normal = self._normalised(tokens, f"{place}norm1.")
        mixed = self._attention(normal[None], place)[0] if is_global else self._in_windows(normal, place, window)
        tokens = tokens + mixed
        hidden = _gelu(self._linear(self._normalised(tokens, f"{place}norm2."), f"{place}mlp.lin1."))
        return tokens + self._linear(hidden, f"{place}mlp.lin2.")

    def _in_windows(self, tokens: Floats, place: str, window: int) -> Floats:
        """Attend within windows; the grid is padded with zeros to whole windows."""
        height, width, channels = tokens.shape
        rows, columns = -(-height // window), -(-width // window)
        padded = np.zeros((rows * window, columns * window, channels), np.float32)
        padded[:height, :width] = tokens
        cut = padded.reshape(rows, window, columns, window, channels).swapaxes(1, 2)
        mixed = self._attention(cut.reshape(-1, window, window, channels), place)
        joined = mixed.reshape(rows, columns, window, window, channels).swapaxes(1, 2).reshape(padded.shape)
        return joined[:height, :width]

    def _attention(self, tokens: Floats, place: str) -> Floats:
        """Return what each token of (B, h, w, C) gathers from its own window, with relative positions added."""
        batch, height, width, channels = tokens.shape
        heads = self._architecture.encoder_heads
        together = self._linear(tokens, f"{place}attn.qkv.").reshape(batch, height * width, 3, heads, -1)
        queries, keys, values = together.transpose(2, 0, 3, 1, 4)
        scores = (queries * np.float32(queries.shape[-1] ** -0.5)) @ keys.swapaxes(-1, -2)
        grid = queries.reshape(batch, heads, height, width, -1)
        apart = scores.reshape(batch, heads, height, width, height, width)
        if f"{place}attn.rel_pos_h" in self._tensors:
            along_rows = self._relative(f"{place}attn.rel_pos_h", height)
            along_columns = self._relative(f"{place}attn.rel_pos_w", width)
            apart += np.einsum("bnhwc,hkc->bnhwk", grid, along_rows, optimize=True)[..., None]
            apart += np.einsum("bnhwc,wkc->bnhwk", grid, along_columns, optimize=True)[..., None, :]
        mixed = _softmax(scores) @ values
        return self._linear(mixed.swapaxes(1, 2).reshape(batch, height, width, channels), f"{place}attn.proj.")

    def _relative(self, name: str, size: int) -> Floats:
        places = np.arange(size)
        vectors: Floats = self._tensors[name][places[:, None] - places[None, :] + size - 1]
        return vectors

    def _neck(self, tokens: Floats) -> Floats:
        """Return (h, w, C): a convolution of 1 × 1, then one of 3 × 3, each normalised."""
        first = self._tensors["neck.0.weight"][:, :, 0, 0]
        hidden = self._normalised(tokens @ first.T, "neck.1.")
        height, width, _ = hidden.shape
        padded = np.pad(hidden, ((1, 1), (1, 1), (0, 0)))
        kernel = self._tensors["neck.2.weight"]
        summed = np.zeros_like(hidden)
        for row in range(3):
            for column in range(3):
                summed += padded[row : row + height, column : column + width] @ kernel[:, :, row, column].T
        return self._normalised(summed, "neck.3.")

    def _linear(self, values: Floats, name: str) -> Floats:
        product: Floats = values @ self._tensors[f"{name}weight"].T
        # Plain SAMs have biases everywhere; `qkv_bias` could leave one out.
        return product + self._tensors[f"{name}bias"] if f"{name}bias" in self._tensors else product

    def _normalised(self, values: Floats, name: str) -> Floats:
        centred = values - values.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        normal: Floats = centred / deviation * self._tensors[f"{name}weight"] + self._tensors[f"{name}bias"]
        return normal


def _softmax(scores: Floats) -> Floats:
    raised: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    raised /= raised.sum(axis=-1, keepdims=True)
    return raised


def _gelu(values: Floats) -> Floats:
    size = np.abs(values) * np.float32(2**-0.5)
    step = 1 / (1 + np.float32(_ERF_SLOPE) * size)
    series = np.zeros_like(step)
    for term in reversed(_ERF_TERMS):
        series = (series + np.float32(term)) * step
    erf = np.copysign(1 - series * np.exp(-size * size), values)
    activated: Floats = values * np.float32(0.5) * (1 + erf)
    return activated
