"""What decides which proposals are objects: rules alone, a table of instances, or a detector.

Source: method page, section 1; the authors' instances come from CutLER, score >= 0.5.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.config import MasksConfig, PriorConfig, ReductionConfig
from schemas.shard import ShardImage
from workers.masks.instances import match_instances
from workers.masks.prior_detector import InstanceDetector, load_detector
from workers.masks.prior_table import InstanceTable
from workers.masks.proposals import Proposals
from workers.masks.reduction import Kept, reduce_proposals


class InstancePrior(Protocol):
    """Chooses, among an image's proposals, those that are objects."""

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the chosen proposals in the generator's order, each once.

        Args:
            image: For its id and key.
            pixels: The same image, upright, (H, W, 3) uint8 RGB.
            proposals: All of its masks, unreduced.
        """


class NoPrior:
    """`none`: areas, doubles and parts, by rules."""

    def __init__(self, config: ReductionConfig) -> None:
        """Keep the thresholds."""
        self._config = config

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return what the rules leave."""
        return reduce_proposals(proposals, self._config)


class TablePrior:
    """`table`: instances that the user's table lists for the image."""

    def __init__(self, table: InstanceTable, config: PriorConfig) -> None:
        """Keep the table and how to match."""
        self._table = table
        self._config = config

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the best proposal of each instance, `table:<row>`."""
        instances = self._table.instances(image.image_id, image.key, proposals.size)
        return match_instances(proposals, instances, name="table", match=self._config.match)


class DetectorPrior:
    """`torchvision`: instances that a detector finds in the image."""

    def __init__(self, detector: InstanceDetector, config: PriorConfig) -> None:
        """Keep the detector and how to match."""
        self._detector = detector
        self._config = config

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the best proposal of each instance, `torchvision:<number among the detections>`."""
        instances = self._detector.instances(pixels)
        return match_instances(proposals, instances, name="torchvision", match=self._config.match)


def build_prior(config: MasksConfig, device: torch.device) -> InstancePrior:
    """Return the prior that `masks.prior` names. Raises: ConfigError: its file is missing or malformed."""
    prior = config.prior
    if prior.path is None or prior.kind == "none":
        return NoPrior(config.reduction)
    if prior.kind == "table":
        # Here, because it reads Parquet, and a machine that only proposes masks may lack pyarrow.
        from workers.masks.prior_files import read_instance_table

        return TablePrior(read_instance_table(prior.path, prior.min_score), prior)
    return DetectorPrior(InstanceDetector(load_detector(prior.path), device, min_score=prior.min_score), prior)


def prior_digest(config: PriorConfig) -> str | None:
    """Return the sha256 of the prior's file, or None for `none`. Raises: ConfigError: it cannot be read."""
    if config.path is None or config.kind == "none":
        return None
    from workers.masks.prior_files import file_digest

    return file_digest(config.path)
