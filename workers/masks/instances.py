"""Chooses which proposals are objects (`masks.prior`): by rules, by a table or by a detector.

`generator.py` and `ready_masks.py` build one prior for a process. A prior must return proposals in the generator's
order, because ids and the tables' bytes depend on it.
Source: method page, section 1; the authors' instances come from CutLER, score > 0.5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pseudoris.files.filesystems import open_location
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import MasksConfig, PriorConfig
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.checkpoints.tensor_files import read_state
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.masks.proposals import Kept, Proposals, reduce_proposals


def match_instances(proposals: Proposals, instances: Instances, config: PriorConfig, *, name: str) -> list[Kept]:
    """Return the best proposal of each instance, in the generator's order.

    Among equals the first proposal wins. An instance without overlap with any proposal is dropped, or takes the first
    proposal, as `config.untouched` says. If several instances choose the same proposal, the first of them is its prior;
    with `duplicates=keep` the others follow after all first choices, each with the next `Kept.copy`. `name` is the
    prior's, for `Kept.prior`.
    """
    if not len(proposals) or not instances.counts:
        return []
    measure = rle.shares_inside if config.match == "intersection" else rle.ious
    overlaps = measure(instances.counts, proposals.counts, proposals.size)
    touches = overlaps.max(axis=1) > 0
    best = np.where(touches, overlaps.argmax(axis=1), 0)
    matched = np.flatnonzero(touches | (config.untouched == "first_mask"))
    choices: dict[int, list[int]] = defaultdict(list)
    for instance in matched:
        choices[int(best[instance])].append(instances.rows[instance])
    num_copies = 1 if config.duplicates == "merge" else max(map(len, choices.values()), default=0)
    return [
        Kept(row, f"{name}:{choices[row][copy]}", copy)
        for copy in range(num_copies)
        for row in sorted(choices)
        if copy < len(choices[row])
    ]


_CLASSES_KEY = "roi_heads.box_predictor.cls_score.bias"
# A state dict has one of these keys, which shows its version: v1 has linear layers as box head, v2 convolutions.
_V1_KEY = "roi_heads.box_head.fc6.weight"
_V2_KEY = "roi_heads.box_head.0.0.weight"
# A pixel belongs to a mask at this probability or above. Source: torchvision's Mask R-CNN reference.
_MIN_MASK_PROBABILITY = 0.5


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
    """
    # torchvision's detection models are imported here, because most runs have no detector.
    from torchvision.models import detection

    try:
        with open_location(path) as file:
            state = read_state(file if "://" in path else Path(path).expanduser(), f"prior.path={path}")
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read as tensors: {error}") from error
    build = detection.maskrcnn_resnet50_fpn_v2 if _V2_KEY in state else detection.maskrcnn_resnet50_fpn
    if _CLASSES_KEY not in state or not {_V1_KEY, _V2_KEY} & state.keys():
        raise ConfigError(
            f"prior.path={path} has not {_CLASSES_KEY} and one of {_V1_KEY} and {_V2_KEY}: give a checkpoint of "
            "torchvision's Mask R-CNN"
        )
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=len(state[_CLASSES_KEY]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"prior.path={path} does not fit torchvision's {build.__name__}: {error}") from error
    if len(state[_CLASSES_KEY]) == 91 and not any(name.endswith("num_batches_tracked") for name in state):
        # torchvision's own v1 of COCO was trained with frozen norms, without an epsilon; its v2 has no frozen norms.
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.eps = 0.0
    return model


# Chooses the proposals that are objects: from the image's id and key, from its upright pixels (H, W, 3) uint8 RGB, and
# from all of its masks, unreduced. Each stands once, unless copies are kept.
InstancePrior = Callable[[ShardImage, NDArray[np.uint8], Proposals], list[Kept]]


def build_prior(config: MasksConfig, device: torch.device) -> InstancePrior:
    """Return the prior that `masks.prior` names; `none` is the reduction by rules."""
    prior = config.prior
    prior.check_is_set()
    if prior.path is None or prior.kind == "none":
        return lambda image, pixels, proposals: reduce_proposals(proposals, config.reduction)
    if prior.kind == "table":
        table = read_instance_table(prior.path, prior.min_score)
        return lambda image, pixels, proposals: match_instances(
            proposals, table.instances(image.image_id, image.key, proposals.size), prior, name="table"
        )
    detector = InstanceDetector(load_detector(prior.path), device, min_score=prior.min_score)
    return lambda image, pixels, proposals: match_instances(
        proposals, detector.instances(pixels), prior, name="torchvision"
    )
