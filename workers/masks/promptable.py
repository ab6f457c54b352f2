"""What a model must offer to answer points, and the points and crops that it is asked about.

Called by the SAM modules of this folder and by `training/ppt`. Points and crops must be SAM's, in its order and to the
last bit, because the ids of masks follow from them.
Source: segment-anything 1.0, utils/amg.py and utils/transforms.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import MasksConfig
from pseudoris.schemas.shard import Box

PointGrid = NDArray[np.float64]


@dataclass(frozen=True)
class EncodedCrop:
    """A crop as input of the mask decoder.

    Attributes:
        levels: What the model's encoder yields, one image of each, the coarsest last; only the model looks inside.
        size: (H, W) of the crop in pixels.
        input_size: (H, W) of the encoder's input, without padding.
    """

    levels: tuple[torch.Tensor, ...]
    size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def embedding(self) -> torch.Tensor:
        """The coarsest level; SAM's only one, (C, h, w) float32."""
        return self.levels[-1]


class PromptableModel(Protocol):
    """A model, loaded on its device, that answers a foreground point with some masks and its guess of their IoU."""

    side: int  # of the model's square input, in pixels

    def encode(self, crops: Sequence[NDArray[np.uint8]]) -> Iterator[EncodedCrop]:
        """Yield the encodings of crops (H, W, 3) uint8 RGB in order; how many are encoded at once is the model's."""

    def share(self, crop: EncodedCrop) -> Any:
        """Return what all prompts on a crop share; only `decode` looks inside."""

    def decode(
        self, shared: Any, points_xy: torch.Tensor, *, min_predicted_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low-resolution logits (K, h, w) float32 and predicted IoU (K,), by point, then by mask.

        `points_xy` (P, 2) float64 are in pixels of the encoder's input, one prompt a row. Masks strictly above
        `min_predicted_iou` are kept; 0 or less keeps all, as in SAM.
        """

    def upsample(self, logits: torch.Tensor, crop: EncodedCrop) -> torch.Tensor:
        """Return low-resolution logits (K, h, w) at the crop's size, (K, H, W) float32."""


def layer_grids(config: MasksConfig) -> tuple[PointGrid, ...]:
    """Return one point grid for the whole image and one for each layer of crops, in the frame of a crop."""
    factor = config.crop_n_points_downscale_factor
    sides = [int(config.points_per_side / factor**layer) for layer in range(config.crop_n_layers + 1)]
    if 0 in sides:
        raise ConfigError(
            f"masks.crop_n_points_downscale_factor={factor} leaves crop layer {sides.index(0)} without points "
            f"(masks.points_per_side={config.points_per_side}): lower the factor or masks.crop_n_layers"
        )
    grids = []
    for points_per_side in sides:
        # A grid has the centres of square cells, (points², 2) float64 as x, y in (0, 1), row by row.
        half = 1 / (2 * points_per_side)
        side = np.linspace(half, 1 - half, points_per_side)
        grids.append(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    return tuple(grids)


def crop_boxes(size: tuple[int, int], config: MasksConfig) -> list[tuple[Box, int]]:
    """Return the crops of an image (H, W), boxes in pixels with x1 and y1 exclusive, each with its layer.

    The whole image comes first, then layer by layer, column by column. Layer l has (2^l)² crops. In an image of a few
    pixels some crops have no pixels; they are left out.
    """
    height, width = size
    crops: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, config.crop_n_layers + 1):
        num_crops = 2**layer
        overlap = int(config.crop_overlap_ratio * min(height, width) * (2 / num_crops))
        spans = []
        for length in (width, height):
            span = math.ceil((overlap * (num_crops - 1) + length) / num_crops)
            starts = [(span - overlap) * number for number in range(num_crops)]
            spans.append([(start, min(start + span, length)) for start in starts if start < length])
        crops.extend(((x0, y0, x1, y1), layer) for (x0, x1), (y0, y1) in product(*spans))
    return crops


def to_input_frame(points_xy: NDArray[np.float64], crop: EncodedCrop) -> NDArray[np.float64]:
    """Return points (P, 2) of the unit square in pixels of the encoder's input."""
    (height, width), (input_height, input_width) = crop.size, crop.input_size
    # The factors are multiplied in SAM's order, because another order rounds differently.
    in_crop = points_xy * np.array([width, height])
    in_input: NDArray[np.float64] = in_crop * np.array([input_width / width, input_height / height])
    return in_input
