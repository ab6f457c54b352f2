"""Instance priors decide which proposals are objects: by rules, by a table of instances, or by a detector.

Source: method page, section 1; the authors' instances come from CutLER, score >= 0.5.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import MasksConfig, PriorConfig, ReductionConfig
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.masks.instance_detector import InstanceDetector, load_detector
from pseudoris.workers.masks.instances import InstanceTable, match_instances
from pseudoris.workers.masks.proposals import Proposals
from pseudoris.workers.masks.reduction import Kept, reduce_proposals


class InstancePrior(Protocol):
    """Chooses which of an image's proposals are objects."""

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the chosen proposals in the generator's order, each once.

        Args:
            image: Its id and key are read.
            pixels: The same image, upright, (H, W, 3) uint8 RGB.
            proposals: All of its masks, unreduced.
        """


class NoPrior:
    """`none`: rules on areas, doubles and parts."""

    def __init__(self, config: ReductionConfig) -> None:
        """Keep the thresholds."""
        self._config = config

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the proposals that the rules keep."""
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
    """Return the prior that `masks.prior` names. Raises: ConfigError: Its file is missing or malformed."""
    prior = config.prior
    if prior.path is None or prior.kind == "none":
        return NoPrior(config.reduction)
    if prior.kind == "table":
        # Imported here, because it needs pyarrow, which a machine that only proposes masks may lack.
        from pseudoris.workers.masks.instance_files import read_instance_table

        return TablePrior(read_instance_table(prior.path, prior.min_score), prior)
    return DetectorPrior(InstanceDetector(load_detector(prior.path), device, min_score=prior.min_score), prior)


def prior_digest(config: PriorConfig) -> str | None:
    """Return the sha256 of the prior's file, or None for `none`. Raises: ConfigError: It cannot be read."""
    if config.path is None or config.kind == "none":
        return None
    from pseudoris.workers.masks.instance_files import file_digest

    return file_digest(config.path)
