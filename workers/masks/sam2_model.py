"""The mask stage by SAM 2, EdgeTAM or SAM 3's tracker of `transformers`. Built by `workers/stages.py`.

Their classes have one interface. `concept_proposer.py` loads SAM 3 and prepares its input here too. The weights are a
model folder. Its image processor is not read: images are resized here, because their bits must be equal on all devices.
Source: transformers 5.24, models/sam2/modeling_sam2.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig, MasksConfig
from pseudoris.workers.checkpoints.hf_models import load_model, model_skeleton
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from pseudoris.workers.checkpoints.weight_files import folder_digest
from pseudoris.workers.device import compute_dtype, to_device
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.generator import SamProposer
from pseudoris.workers.masks.promptable import EncodedCrop
from pseudoris.workers.stages import combined, prior_digest

# Maps an engine and a folder's `model_type` to the class that opens it. A video model contains the image model.
_CLASSES: Final = {
    "sam2": {
        "sam2": "Sam2Model",
        "sam2_video": "Sam2Model",
        "edgetam": "EdgeTamModel",
        "edgetam_video": "EdgeTamModel",
    },
    "sam3": {
        "sam3_tracker": "Sam3TrackerModel",
        "sam3_tracker_video": "Sam3TrackerModel",
        "sam3_video": "Sam3TrackerModel",
    },
    "sam3_concepts": {"sam3": "Sam3Model", "sam3_video": "Sam3Model"},
}
# Mean and standard deviation of the input's channels. Source: the defaults of Sam2ImageProcessor, which EdgeTAM takes
# too, and of Sam3ImageProcessor; for RGB in [0, 255].
_SAM2_FORMAT: Final = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_SAM3_FORMAT: Final = ((127.5,) * 3, (127.5,) * 3)


def open_sam2(config: MasksConfig) -> tuple[ModelFolder, str]:
    """Return the model folder of `masks.weights` and the class by which `masks.engine` opens it, or refuse it."""
    folder = ModelFolder.open(config.weights.uri)
    known, found = _CLASSES[config.engine], folder.config["model_type"]
    if found not in known:
        others = [name for name, types in _CLASSES.items() if found in types]
        hint = f": --set masks.engine={others[0]}" if others else ""
        raise ConfigError(
            f"masks.engine={config.engine} opens a model of type {', '.join(known)}, and '{folder.uri}' is of type "
            f"{found}{hint}"
        )
    return folder, known[found]


def sam2_digest(config: MasksConfig) -> str:
    """Return the sha256 of the model folder, with that of an instance prior, if `transformers` knows the model."""

    def is_known() -> None:
        model_skeleton(*open_sam2(config))

    return combined(partial(folder_digest, config.weights), is_known, partial(prior_digest, config.prior))


def in_dtype(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a float32 model computes in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def model_input(pixels: NDArray[np.uint8], side: int, *, is_sam3: bool, device: torch.device) -> torch.Tensor:
    """Return an image (H, W, 3) uint8 RGB as input (1, 3, side, side) float32: stretched, without padding.

    Resized as bytes on the CPU, with antialiasing: equal on every device, and to the image processors' torchvision
    backend.
    """
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    planes = transforms.resize(planes, [side, side], antialias=True)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (_SAM3_FORMAT if is_sam3 else _SAM2_FORMAT))
    return to_device((planes.float() - mean) / std, device)[None]


def load_sam2(config: MasksConfig, compute: ComputeConfig, device: torch.device) -> Any:
    """Return the model of `masks.weights`, float32, on `device`; errors as of `open_sam2` and `load_model`."""
    folder, class_name = open_sam2(config)
    model = load_model(folder, class_name, device=device, dtype=torch.float32)
    if compute.is_compiled:
        compile_tower(model.vision_encoder)
    return model


def upsample_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return mask logits (N, h, w) at `size` (H, W), in one step."""
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


class PromptableSam2:
    """A `PromptableModel` over a model of transformers in eval mode, float32, on its device."""

    def __init__(self, model: Any, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep a Sam2Model, EdgeTamModel or Sam3TrackerModel; encoder and mask decoder compute in `dtype`."""
        self._model, self._dtype = model, dtype
        self.side: int = model.prompt_encoder.input_image_size
        self._is_sam3 = model.config.model_type.startswith("sam3")

    def encode(self, crops: Sequence[NDArray[np.uint8]]) -> Iterator[EncodedCrop]:
        """Yield the encodings of the crops, one by one: levels (C, h, w) float32."""
        for pixels in crops:
            planes = model_input(pixels, self.side, is_sam3=self._is_sam3, device=self._model.device)
            with in_dtype(self._model.device, self._dtype):
                levels = self._model.get_image_embeddings(planes)
            size = (pixels.shape[0], pixels.shape[1])
            yield EncodedCrop(tuple(level[0].float() for level in levels), size, (self.side, self.side))

    def share(self, crop: EncodedCrop) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the levels as a batch of one, and the places of the coarsest one's cells."""
        return [level[None] for level in crop.levels], self._model.get_image_wide_positional_embeddings()

    def decode(
        self, shared: tuple[list[torch.Tensor], torch.Tensor], points_xy: torch.Tensor, *, min_predicted_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return three masks per point. The decoder makes all of them before one is dropped."""
        levels, place = shared
        points = points_xy.float()[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int, device=points.device)
        # Prompts stay in float32, because coordinates become phases of many radians, which half precision would round.
        sparse, dense = self._model.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=None, input_masks=None
        )
        with in_dtype(self._model.device, self._dtype):
            low, predicted_iou, *_ = self._model.mask_decoder(
                image_embeddings=levels[-1],
                image_positional_embeddings=place,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                high_resolution_features=levels[:-1],
            )
        low, predicted_iou = low[0].flatten(0, 1), predicted_iou[0].flatten().float()
        if min_predicted_iou > 0:
            rows = (predicted_iou > min_predicted_iou).nonzero()[:, 0]
            low, predicted_iou = low[rows], predicted_iou[rows]
        return low.float(), predicted_iou

    def upsample(self, logits: torch.Tensor, crop: EncodedCrop) -> torch.Tensor:
        """Return the logits at the crop's size, in one step."""
        return upsample_logits(logits, crop.size)


class Sam2Proposer(SamProposer):
    """Proposes masks from a grid of points, as `SamProposer` does, with SAM 2, EdgeTAM or SAM 3's tracker."""

    OPTIONS: Final = frozenset[str]()

    def _load(self, config: MasksConfig, compute: ComputeConfig) -> PromptableSam2:
        return PromptableSam2(load_sam2(config, compute, self._device), dtype=compute_dtype(compute))

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return the sha256 of the model folder; with an instance prior, the sha256 of both digests."""
        return sam2_digest(config)
