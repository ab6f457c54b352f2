"""Measures the domain of the tiny models: SAM's embeddings of known scenes, and a threshold.

Known are training scenes, and scenes of the world `second`, another look on which the models were not trained and still
work: without them a rare texture there is as far away as a photograph. The threshold is chosen on development scenes of
all worlds. No image from outside the worlds has a part in either.
"""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.synthworld.worlds import WORLDS
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.domain_scorer import (
    ENCODER_KEY,
    NEIGHBOUR,
    DomainStatistics,
    Floats,
    image_embedding,
    load_encoder,
    near_distances,
)

logger = logging.getLogger(__name__)

# Added to the covariance's diagonal, as a share of its mean: directions in which known images hardly vary would decide
# alone.
_RIDGE: Final = 1e-2
_KNOWN_WORLDS: Final = ("default", "second")
# Scenes of a task: seconds of work.
_CHUNK: Final = 50


@dataclass(frozen=True)
class DomainRecipe:
    """The numbers of this phase; the defaults made the shipped file.

    Attributes:
        num_known: Training scenes of each known world.
        num_development: Development scenes of each world.
        margin: The threshold, in the highest score of all development scenes.
    """

    num_known: int = 1000
    num_development: int = 1000
    margin: float = 1.15


def measure_domain(sam: Path, recipe: DomainRecipe, *, seed: int, processes: int = 2) -> DomainStatistics:
    """Return the statistics of the known scenes for the SAM whose weights are at `sam`, with the threshold."""
    with ProcessPoolExecutor(processes) as pool:

        def embeddings(split: Split, world: str, count: int) -> Floats:
            chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
            embed = partial(scene_embeddings, sam, split, world, seed=seed)
            return np.concatenate(list(pool.map(embed, chunks)))

        known = [embeddings(Split.TRAIN, world, recipe.num_known) for world in _KNOWN_WORLDS]
        statistics = fit_statistics(np.concatenate(known), weights_digest(WeightsConfig(uri=str(sam))))
        highest = 0.0
        for world in WORLDS:
            found = embeddings(Split.DEVELOPMENT, world, recipe.num_development)
            scores = [statistics.score(each) for each in found]
            logger.info("domain: %s, highest score %.3f of %d scenes", world, max(scores), len(scores))
            highest = max(highest, *scores)
    return replace(statistics, max_score=round(recipe.margin * highest, 3))


def scene_embeddings(sam: Path, split: Split, world: str, positions: range, *, seed: int) -> Floats:
    """Return the embeddings (S, C) of scenes; runs in a child process."""
    encoder = load_encoder(load_config("tiny").masks.architecture, WeightsConfig(uri=str(sam)))
    scenes = (make_scene(split, position, seed=seed, world=world) for position in positions)
    return np.stack([image_embedding(encoder, render(scene).image) for scene in scenes])


def fit_statistics(embeddings: Floats, encoder_sha256: str) -> DomainStatistics:
    """Return the statistics of known images' embeddings (N, C), N well above C; every score is inside yet."""
    covariance = np.cov(embeddings.astype(np.float64), rowvar=False)
    covariance += _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    known = embeddings @ whitening
    # One neighbour further: the nearest of a known image is itself.
    whitening /= np.median(near_distances(known, known, NEIGHBOUR + 1))
    return DomainStatistics(
        whitening.astype(np.float32), (embeddings @ whitening).astype(np.float16), float("inf"), encoder_sha256
    )


def write_statistics(path: Path, statistics: DomainStatistics) -> None:
    """Write the file that a preset ships."""
    tensors: dict[str, NDArray[Any]] = {
        "whitening": statistics.whitening,
        "known": statistics.known,
        "max_score": np.array([statistics.max_score], np.float32),
    }
    save_file(tensors, path, metadata={ENCODER_KEY: statistics.encoder_sha256})
