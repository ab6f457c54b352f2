"""Decides which proposals are objects by instances: those of a user's table, or of a detector.

In a table an image is found by its `image_id` or its key (percent-encoded or plain), else by file name,
if one path ends in the other (`train/1.jpg` and `1.jpg`) and only one name in the table does so. Masks must have the
upright image's size. An image without rows has no instances.

Source: method page, section 1; the authors' instances come from CutLER, score > 0.5.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.workers.checkpoints.tensor_files import read_state
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.locations import open_location
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.proposals import Kept, Proposals
from pseudoris.workers.masks.rle import is_coordinate

logger = logging.getLogger(__name__)

# Turns a row number and the image's (H, W) into an RLE string.
EncodeRow = Callable[[int, tuple[int, int]], str]


@dataclass(frozen=True)
class Instances:
    """The instances of one image.

    Attributes:
        counts: COCO compressed RLE strings, of the image's size; an empty instance is allowed and matches nothing.
        rows: The number that a mask's `prior` names: the row in the table, or the number of the detection.
    """

    counts: tuple[str, ...]
    rows: tuple[int, ...]


def match_instances(proposals: Proposals, instances: Instances, config: PriorConfig, *, name: str) -> list[Kept]:
    """Return the best proposal of each instance, in the generator's order.

    Among equals the first proposal wins. An instance without overlap with any proposal is dropped, or takes the first
    proposal, as `config.untouched` says. If several instances choose the same proposal, the first of them is its prior;
    with `duplicates=keep` the others follow after all first choices, each with the next `Kept.copy`.

    Args:
        proposals: All proposals of the image, before any reduction.
        instances: The instances of the same image.
        config: `match`, `duplicates` and `untouched` are read.
        name: The prior's name, for `Kept.prior`.
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


def encode_box(box_xyxy_px: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """Return the RLE of an image's (H, W) pixels whose centres are in the box; empty if there are none."""
    height, width = size
    x0, y0, x1, y1 = (int(np.ceil(edge - 0.5)) for edge in np.clip(box_xyxy_px, 0, [width, height, width, height]))
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return rle.encode(mask)[0]


def encode_instance(segmentation: Mapping[str, Any] | None, box: Any, size: tuple[int, int], *, where: str) -> str:
    """Return the checked RLE of a user's instance in an image (H, W), from its segmentation, else from its box.

    Args:
        segmentation: `size` and `counts` (compressed RLE), or None.
        box: x0, y0, x1, y1, x1 and y1 exclusive, or None.
        size: (H, W) of the upright image.
        where: File and row, for messages.

    Raises:
        ConfigError: It has neither, or the RLE is damaged.
        ImageError: The segmentation has another size.
    """
    if segmentation is not None and not isinstance(segmentation, Mapping):
        raise ConfigError(f"{where}: segmentation is a {type(segmentation).__name__}, but needs size and counts")
    if segmentation is None or segmentation.get("counts") is None:
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_coordinate, box)):
            raise ConfigError(f"{where} has neither a segmentation nor a box of four numbers, got {box!r}")
        return encode_box((box[0], box[1], box[2], box[3]), size)
    check_size(segmentation.get("size"), size, where=where)
    counts = segmentation["counts"]
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    if not isinstance(text, str) or not rle.is_valid(text, size):
        raise ConfigError(f"{where}: counts is not a COCO compressed RLE of {size[0]} x {size[1]} pixels")
    return text


def check_size(claimed: Any, size: tuple[int, int], *, where: str) -> None:
    """Check that a mask's stated size is the upright image's (H, W); call it before the mask is drawn.

    Raises:
        ImageError: It states another size.
    """
    if not isinstance(claimed, list | tuple) or list(claimed) != list(size):
        raise ImageError(
            "prior_mismatch",
            f"{where} is a mask of size {claimed}, the upright image has {list(size)}: "
            "make the table from images turned upright by their EXIF orientation, at full size",
        )


class InstanceTable:
    """The instances of a table, by image."""

    def __init__(self, names: Iterable[tuple[int, str]], encode_row: EncodeRow, *, path: str) -> None:
        """Index rows by the image that they name.

        Args:
            names: Pairs of a row and its image's id, key or file name, by ascending row.
            encode_row: Returns the mask of a row.
            path: Path of the table, for messages.
        """
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, name in names:
            self._rows[name].append(row)
        self._names_by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self._rows:
            self._names_by_stem[_parts(name)[-1]].append(name)
        self._encode_row = encode_row
        self._path = path
        self._has_warned = False

    def instances(self, image_id: str, key: str, size: tuple[int, int]) -> Instances:
        """Return the instances of an image (H, W), by ascending row.

        Raises:
            ConfigError: Several names in the table fit the image, or one of its rows is malformed.
            ImageError: The table's masks have another size.
        """
        name = self._name_of(image_id, key)
        if name is None:
            if not self._has_warned:
                logger.warning(
                    "image %s has no row in prior.path=%s, so it gets no mask (logged once)", key, self._path
                )
                self._has_warned = True
            return Instances((), ())
        rows = tuple(self._rows[name])
        return Instances(tuple(self._encode_row(row, size) for row in rows), rows)

    def _name_of(self, image_id: str, key: str) -> str | None:
        for name in (image_id, key, unquote(key)):
            if name in self._rows:
                return name
        # A name fits if one path ends in the other.
        fitting = {
            name
            for parts in (_parts(key), _parts(unquote(key)))
            for name in self._names_by_stem.get(parts[-1], ())
            if all(a == b for a, b in zip(reversed(_parts(name)), reversed(parts), strict=False))
        }
        if len(fitting) > 1:
            raise ConfigError(
                f"prior.path={self._path}: image {key} fits several names: {', '.join(sorted(fitting))}; "
                f"name images by their key or image_id, as the images table does"
            )
        return next(iter(fitting), None)


def _parts(name: str) -> tuple[str, ...]:
    # The key of a tar's member is `tar!member`. Tools on Windows write `train\1.jpg`.
    return PurePosixPath(name.replace("!", "/").replace("\\", "/")).parts or ("",)


_CLASSES_KEY = "roi_heads.box_predictor.cls_score.bias"
# Version 2 has a convolutional box head, version 1 has two linear layers.
_V1_KEY = "roi_heads.box_head.fc6.weight"
_V2_KEY = "roi_heads.box_head.0.0.weight"
# Mask probability of a pixel. Source: torchvision's Mask R-CNN reference.
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
    # Imported here: most runs have no detector.
    from torchvision.models import detection

    try:
        with open_location(path) as file:
            state = read_state(file, f"prior.path={path}")
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
    return model
