"""How far an image lies from what SAM knows: the distance to its near neighbours among known images. No torch.

The embedding is the mean of SAM's image embedding over the image's positions, as its mask decoder reads it. Embeddings
are whitened by the covariance of the known images. The score is the distance to the third nearest of them, scaled so
that 1 is usual for a known image. Of the layers and rules that were compared on development images, this one parts
drawings from photographs most widely: a rare kind of drawing has neighbours, where it is far from the mean.

Source: Sun et al. 2022, arXiv 2204.06507 (distance to the k-th nearest neighbour in a trained network's features).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.checkpoints.weight_files import local_file, random_seed, verified_digest
from pseudoris.workers.masks.numpy_encoder import Floats, NumpyEncoder

# The only entry of the file's metadata: safetensors writes several in any order, and the file's bytes are digested.
_ENCODER: Final = "encoder_sha256"
# Engines whose images the preset's models see: ready masks are captioned by its other models. Of a plug-in's models
# nothing is known.
_READY: Final = "ready"
_ENGINES: Final = ("sam", _READY)
# Added to the covariance's diagonal, as a share of its mean: directions in which known images hardly vary would decide
# alone.
_RIDGE: Final = 1e-2
# The third: a few known images that are themselves odd do not make a neighbourhood.
_NEIGHBOUR: Final = 3


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
        return float(_near_distances(embedding[None] @ self.whitening, self.known, _NEIGHBOUR)[0])


def fit_statistics(embeddings: Floats, encoder_sha256: str) -> DomainStatistics:
    """Return the statistics of known images' embeddings (N, C), N well above C; every score is inside yet."""
    covariance = np.cov(embeddings.astype(np.float64), rowvar=False)
    covariance += _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    known = embeddings @ whitening
    # One neighbour further: the nearest of a known image is itself.
    whitening /= np.median(_near_distances(known, known, _NEIGHBOUR + 1))
    return DomainStatistics(
        whitening.astype(np.float32), (embeddings @ whitening).astype(np.float16), float("inf"), encoder_sha256
    )


def _near_distances(points: Floats, known: NDArray[np.floating], neighbour: int) -> Floats:
    """Return (P,), the distance of each point (P, C) to the nearest, second, … `neighbour`th of the known (N, C)."""
    near = [np.partition(np.linalg.norm(known - point, axis=1), neighbour - 1)[neighbour - 1] for point in points]
    return np.array(near, np.float32)


def write_statistics(path: Path, statistics: DomainStatistics) -> None:
    """Write the file that a preset ships."""
    tensors: dict[str, NDArray[Any]] = {
        "whitening": statistics.whitening,
        "known": statistics.known,
        "max_score": np.array([statistics.max_score], np.float32),
    }
    save_file(tensors, path, metadata={_ENCODER: statistics.encoder_sha256})


def read_statistics(weights: WeightsConfig) -> DomainStatistics:
    """Return the statistics of a file that `write_statistics` wrote.

    Raises:
        ConfigError: The file is missing, has another digest, or is no such file.
    """
    path = local_file(weights)
    verified_digest(weights, path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("whitening", "known", "max_score")}
            encoder = (file.metadata() or {})[_ENCODER]
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

    Raises:
        ConfigError: A file is missing, has another digest, or does not fit the architecture.
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


def load_encoder(architecture: str, weights: WeightsConfig) -> NumpyEncoder:
    """Return the image encoder of a SAM.

    Raises:
        ConfigError: The weights are missing, no safetensors, or of another architecture.
    """
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
