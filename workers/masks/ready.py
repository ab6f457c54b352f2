"""The first stage without SAM: masks that somebody made already, as SA-1B JSON beside each other in a folder.

    --set masks.engine=ready --set masks.options.folder=/data/sa1b_masks

Like SAM's own, they are many, and most are parts of objects: the reduction, or an instance prior, chooses among them.
The thresholds of the generation (`masks.pred_iou_thresh` and the like) are not applied again, and no weights are read.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from schemas.config import ComputeConfig, MasksConfig
from schemas.errors import ConfigError
from schemas.frozen import FrozenModel
from schemas.shard import Shard, ShardImage
from workers.boundary import apply_to_images
from workers.device import prepare_device
from workers.images.ahead import decode_image
from workers.masks.priors import build_prior, prior_digest
from workers.masks.ready_files import ReadyMasks
from workers.masks.records import mask_records
from workers.protocols import STAGE_PROPOSE


class ReadyOptions(FrozenModel):
    """`masks.options` of the engine `ready`."""

    # `a/b.jpg` of SOURCE has its masks in `a/b.json` of this folder, a tar's member `b.jpg` in `b.json`. Never
    # relative: it would be another folder in another process.
    folder: str = Field(min_length=1)
    # SA-1B's largest are near 10 MB; parsed, a file takes about ten times its size.
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    # Each mask of an image is compared with each other one: memory grows with the square, 8 bytes a pair.
    max_masks: int = Field(default=4_096, ge=1)

    @model_validator(mode="after")
    def _is_absolute(self) -> Self:
        path = self.folder.removeprefix("file://").removeprefix("local://")
        if "://" not in path and not Path(path).is_absolute():
            raise ValueError(f"folder {self.folder!r} is relative: give an absolute path, or an fsspec url")
        return self


class ReadyProposer:
    """Reads the masks of each image and reduces them to objects.

    A mask's index, and with it its id, is its position in the file, masks without a pixel aside.
    """

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Find the folder, and load the instance prior.

        Raises:
            ConfigError: The folder or the prior's file is missing, or an option is not known.
        """
        self._masks = _open(config)
        self._prior = build_prior(config, prepare_device(compute))

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return a digest of the folder's name, and of the prior's file where there is one.

        The files in the folder are not read through, which may take a day: they must not change while a run lasts.

        Raises:
            ConfigError: The folder or the prior's file is missing, or an option is not known.
        """
        _open(config)
        named = f"ready {_options(config).folder.rstrip('/')} {prior_digest(config.prior) or ''}"
        return hashlib.sha256(named.encode()).hexdigest()

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined; () where none survives."""
        return apply_to_images(shard, STAGE_PROPOSE, self._propose)

    def _propose(self, image: ShardImage) -> ShardImage:
        pixels = decode_image(image)
        proposals = self._masks.proposals(image.key, (pixels.shape[0], pixels.shape[1]))
        kept = self._prior(image, pixels, proposals)
        return replace(image, masks=mask_records(image.image_id, proposals, kept))


def _open(config: MasksConfig) -> ReadyMasks:
    options = _options(config)
    return ReadyMasks(options.folder, max_bytes=options.max_bytes, max_masks=options.max_masks)


def _options(config: MasksConfig) -> ReadyOptions:
    try:
        return ReadyOptions.model_validate(config.options)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'folder'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"masks.options does not hold for masks.engine=ready: {'; '.join(lines)}. It takes "
            f"{', '.join(ReadyOptions.model_fields)}: --set masks.options.folder=/absolute/path"
        ) from None
