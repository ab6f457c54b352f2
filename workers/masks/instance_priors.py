"""Instance priors decide which proposals are objects: by rules, by a table of instances, or by a detector.

Source: method page, section 1; the authors' instances come from CutLER, score > 0.5.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import detection

from pseudoris.schemas.config import MasksConfig, PriorConfig, ReductionConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.checkpoints.tensor_files import load_tensors
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.locations import open_location
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.instances import Instances, InstanceTable, match_instances
from pseudoris.workers.masks.proposals import Proposals
from pseudoris.workers.masks.reduction import Kept, reduce_proposals

_CLASSES_KEY = "roi_heads.box_predictor.cls_score.bias"
# Version 2 has a convolutional box head, version 1 has two linear layers.
_V1_KEY = "roi_heads.box_head.fc6.weight"
_V2_KEY = "roi_heads.box_head.0.0.weight"
# Mask probability of a pixel. Source: torchvision's Mask R-CNN reference.
_MIN_MASK_PROBABILITY = 0.5
_SHOWN_LETTERS = 500


class InstanceDetector:
    """A torchvision Mask R-CNN. Its classes are ignored."""

    def __init__(self, model: nn.Module, device: torch.device, *, min_score: float) -> None:
        """Keep the model in eval mode on `device`. Detections with at least `min_score` count."""
        self._model = model.to(device).eval()
        self._device = device
        self._min_score = min_score

    @torch.inference_mode()
    def instances(self, pixels: NDArray[np.uint8]) -> Instances:
        """Return the instances of an image (H, W, 3) uint8 RGB, best first."""
        image = to_device(pixels, self._device).permute(2, 0, 1).float() / 255
        found = self._model([image])[0]
        (scores,) = to_host(found["scores"])
        rows = np.flatnonzero(scores >= self._min_score)
        masks = found["masks"][to_device(rows, self._device), 0] >= _MIN_MASK_PROBABILITY
        return Instances(tuple(rle.encode(masks)), tuple(rows.tolist()))


def load_detector(path: str) -> nn.Module:
    """Return the Mask R-CNN (ResNet-50 FPN, torchvision's v1 or v2) with the state dict at `path`.

    The version and the number of classes are read from the tensors.

    Raises:
        ConfigError: The file cannot be read or is for another architecture.
    """
    state = _read_state(path)
    build = _builder(state, path)
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=len(state[_CLASSES_KEY]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"prior.path={path} does not fit torchvision's {build.__name__}: {error}") from error
    return model


def _read_state(path: str) -> dict[str, torch.Tensor]:
    try:
        with open_location(path) as file:
            state = load_tensors(file)
    except MemoryError:
        raise
    except Exception as error:  # on hostile bytes the unpickler may raise any type
        raise ConfigError(f"prior.path={path} cannot be read as a checkpoint: {str(error)[:_SHOWN_LETTERS]}") from error
    # torchvision's reference training stores the weights under "model", beside the optimiser's state.
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or _CLASSES_KEY not in state:
        raise ConfigError(
            f"prior.path={path} is not a state dict of a torchvision Mask R-CNN: it has no {_CLASSES_KEY}"
        )
    return state


def _builder(state: dict[str, torch.Tensor], path: str) -> Any:
    if _V1_KEY in state:
        return detection.maskrcnn_resnet50_fpn
    if _V2_KEY in state:
        return detection.maskrcnn_resnet50_fpn_v2
    raise ConfigError(
        f"prior.path={path} has neither {_V1_KEY} nor {_V2_KEY}: give a checkpoint of torchvision's Mask R-CNN"
    )


class InstancePrior(Protocol):
    """Chooses which of an image's proposals are objects."""

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the chosen proposals in the generator's order, each once, unless copies are kept.

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
        return match_instances(proposals, instances, self._config, name="table")


class DetectorPrior:
    """`torchvision`: instances that a detector finds in the image."""

    def __init__(self, detector: InstanceDetector, config: PriorConfig) -> None:
        """Keep the detector and how to match."""
        self._detector = detector
        self._config = config

    def __call__(self, image: ShardImage, pixels: NDArray[np.uint8], proposals: Proposals) -> list[Kept]:
        """Return the best proposal of each instance, `torchvision:<number among the detections>`."""
        instances = self._detector.instances(pixels)
        return match_instances(proposals, instances, self._config, name="torchvision")


def build_prior(config: MasksConfig, device: torch.device) -> InstancePrior:
    """Return the prior that `masks.prior` names.

    Raises:
        ConfigError: Its kind is `unset`, or its file is missing or malformed.
    """
    prior = config.prior
    prior.check_is_set()
    if prior.path is None or prior.kind == "none":
        return NoPrior(config.reduction)
    if prior.kind == "table":
        # Imported here, because it needs pyarrow, which a machine that only proposes masks may lack.
        from pseudoris.workers.masks.instance_files import read_instance_table

        return TablePrior(read_instance_table(prior.path, prior.min_score), prior)
    return DetectorPrior(InstanceDetector(load_detector(prior.path), device, min_score=prior.min_score), prior)
