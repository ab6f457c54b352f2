"""The first stage: images in, masks out, by SAM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pseudoris.schemas.config import ComputeConfig, MasksConfig
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.crops.crops import prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.instances import build_prior
from pseudoris.workers.masks.proposals import mask_records
from pseudoris.workers.masks.sam_model import load_sam
from pseudoris.workers.stages import STAGE_PROPOSE, sam_digest


class SamProposer:
    """Proposes masks with SAM's automatic generator and reduces them to objects.

    A mask's index, and so its id, is its position in the generator's output before the reduction. So a mask keeps its
    id under another reduction or prior.
    """

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Load SAM and the instance prior.

        Raises:
            ConfigError: Weights or the prior's file are missing, damaged or for another architecture; there is no GPU;
                a crop layer has no points.
        """
        self._device = device = prepare_device(compute)
        sam = load_sam(config.architecture, config.weights).to(device)
        if compute.is_compiled:
            compile_tower(sam.image_encoder)
        self._generate = MaskGenerator(sam, config, dtype=compute_dtype(compute))
        self._prior = build_prior(config, device)

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return the sha256 of the weights; with an instance prior, the sha256 of both files' digests.

        Raises:
            ConfigError: The weights or the prior are missing; the message names both if both are.
        """
        return sam_digest(config)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined; () if no mask survives."""
        sound = [image for image in shard.images if not image.failure]
        with prefetched_pixels(sound, self._device) as decode:
            return apply_to_images(shard, STAGE_PROPOSE, lambda image: self._propose(image, decode(image)))

    def _propose(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ShardImage:
        proposals = self._generate(pixels)
        kept = self._prior(image, pixels, proposals)
        return replace(image, masks=mask_records(image.image_id, proposals, kept))
