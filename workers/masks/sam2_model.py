"""The mask stage by SAM 2, EdgeTAM or SAM 3 of `transformers`. Built by `workers/stages.py`.

The classes of SAM 2, EdgeTAM and SAM 3's tracker have one interface, and answer a grid of points. SAM 3 itself answers
concepts: it finds masks of the objects that they name, such as `red car`. The weights are a model folder. Its image
processor is not read: images are resized here, because their bits must be equal on all devices.

For concepts an image is encoded once and a concept once per run. Several concepts may find one object: of masks that
overlap, the one with the highest score stays. Reduction by rules and instance priors do not apply: they are for masks
of which nothing is known. A mask's id is its place before duplicates go, so masks must stay in the concepts' order.
Source: Carion et al., SAM 3: Segment Anything with Concepts; transformers 5.24, models/sam2/modeling_sam2.py and
    models/sam3/modeling_sam3.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torchvision.transforms.v2 import functional as transforms

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig, MasksConfig
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.checkpoints.hf_models import load_model, model_skeleton
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from pseudoris.workers.checkpoints.weight_files import folder_digest
from pseudoris.workers.crops.shard_pixels import Decode
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.generator import SamProposer, encode_proposals, measured, without_small_regions
from pseudoris.workers.masks.proposals import (
    Kept,
    MaskCandidates,
    Proposals,
    Reduction,
    concatenate,
    without_doubles,
)
from pseudoris.workers.masks.sam_model import EncodedCrop
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
    weights_digest = staticmethod(sam2_digest)

    def _load(self, config: MasksConfig, compute: ComputeConfig) -> PromptableSam2:
        return PromptableSam2(load_sam2(config, compute, self._device), dtype=compute_dtype(compute))


# A concept has at most this many tokens of CLIP's tokenizer. Source: the text encoder of SAM 3.
_CONTEXT_LENGTH: Final = 32


class ConceptOptions(FrozenModel):
    """`masks.options` of the engine `sam3_concepts`."""

    # These noun phrases name the things to find. A mask's `prior` has a phrase's number, from 0: `concept:3`.
    concepts: tuple[str, ...] = Field(min_length=1)
    # This many concepts are asked together. Memory grows with it. It changes the rounding, so the identity contains it.
    concepts_per_batch: int = Field(default=8, ge=1)

    @field_validator("concepts")
    @classmethod
    def _can_be_asked(cls, concepts: tuple[str, ...]) -> tuple[str, ...]:
        if empty := [number for number, concept in enumerate(concepts) if not concept.strip()]:
            raise ValueError(f"concept {empty[0]} is empty: leave it out")
        if twice := [concept for concept in concepts if concepts.count(concept) > 1]:
            raise ValueError(f"'{twice[0]}' is in the list twice: name it once")
        return concepts


def concept_options(config: MasksConfig) -> ConceptOptions:
    """Return the options of `masks.engine=sam3_concepts`, or raise a ConfigError for concepts that cannot be asked."""
    options = config.options_as(ConceptOptions, "--set 'masks.options.concepts=[dog, red car]'")
    count = ClipTokenizer(_CONTEXT_LENGTH).num_tokens
    if long := [concept for concept in options.concepts if count(concept) > _CONTEXT_LENGTH]:
        raise ConfigError(
            f"masks.options.concepts: '{long[0]}' takes {count(long[0])} tokens, and SAM 3 reads at most "
            f"{_CONTEXT_LENGTH}: name it in fewer words"
        )
    if config.prior.kind != "none":
        raise ConfigError(
            f"masks.prior.kind={config.prior.kind}: with masks.engine=sam3_concepts the concepts say what the objects "
            "are. Set masks.prior.kind=none"
        )
    return options


class ConceptDetector:
    """A callable image -> all masks of the concepts, with their concepts' numbers, over one Sam3Model."""

    def __init__(self, model: Any, config: MasksConfig, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep the model, which is in eval mode, float32, on its device; it computes in `dtype`."""
        self._model, self._dtype, self._config = model, dtype, config
        options = concept_options(config)
        self._step = options.concepts_per_batch
        self.side = int(model.config.image_size)
        tokenise, device = ClipTokenizer(_CONTEXT_LENGTH), model.device
        lengths = torch.tensor([tokenise.num_tokens(concept) for concept in options.concepts])
        # Without this mask, padding would count as words.
        self._is_token = (torch.arange(_CONTEXT_LENGTH) < lengths[:, None]).long().to(device)
        with torch.inference_mode(), in_dtype(device, dtype):
            tokens = tokenise(options.concepts).to(device)
            self._texts = model.get_text_features(input_ids=tokens, attention_mask=self._is_token).pooler_output

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> tuple[Proposals, NDArray[np.int64]]:
        """Return the masks of an upright image (H, W, 3) uint8 RGB, N >= 0, by concept, and each one's concept (N,).

        The field `predicted_iou` is the score of the concept: masks have one above `pred_iou_thresh`.
        """
        size, device = (image.shape[0], image.shape[1]), self._model.device
        with in_dtype(device, self._dtype):
            seen = self._model.get_vision_features(model_input(image, self.side, is_sam3=True, device=device))
        # With a bound of 0 `measured` drops no unstable mask. They are dropped below, with their concept numbers.
        config = self._config.model_copy(update={"stability_score_thresh": 0.0})
        parts: list[MaskCandidates] = []
        concepts: list[NDArray[np.intp]] = []
        for first in range(0, len(self._is_token), self._step):
            low, score, of_batch = self._asked(seen, slice(first, first + self._step))
            concepts.append(first + of_batch)
            parts += measured(low, score, partial(upsample_logits, size=size), size[0] * size[1], config)
        found, numbers = concatenate(parts), torch.from_numpy(np.concatenate(concepts))
        is_kept = found.bits.any(dim=1)
        if self._config.stability_score_thresh > 0:
            is_kept &= found.stability >= self._config.stability_score_thresh
        rows = is_kept.nonzero()[:, 0]
        left = {"predicted_iou": len(numbers), "stability": len(rows)}
        found, numbers = found.take(rows), numbers[rows.cpu()]
        if self._config.min_mask_region_area and len(found.bits):
            found, _ = without_small_regions(found, self._config.min_mask_region_area)
        return replace(encode_proposals(found), left=left), numbers.numpy()

    def _asked(self, seen: Any, some: slice) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.intp]]:
        """Return low-resolution logits, scores and concepts of the masks that some concepts find, by concept."""
        is_token = self._is_token[some]
        levels, places = (
            tuple(each.expand(len(is_token), -1, -1, -1) for each in levels)
            for levels in (seen.fpn_hidden_states, seen.fpn_position_encoding)
        )
        with in_dtype(self._model.device, self._dtype):
            found = self._model(
                vision_embeds=type(seen)(fpn_hidden_states=levels, fpn_position_encoding=places),
                text_embeds=SimpleNamespace(pooler_output=self._texts[some]),
                attention_mask=is_token,
            )
        scores = found.pred_logits.float().sigmoid() * found.presence_logits.float().sigmoid()
        # Masks are dropped before upsampling, because each concept has 200 masks and most show nothing.
        (is_found,) = to_host(scores > self._config.pred_iou_thresh)
        concepts, queries = np.nonzero(is_found)
        at = tuple(to_device(each, scores.device) for each in (concepts, queries))
        return found.pred_masks[at].float(), scores[at], concepts


class ConceptProposer(SamProposer):
    """Proposes the masks of the concepts in `masks.options.concepts`.

    A mask's index, and so its id, is its position among all masks of all concepts before doubles go.
    """

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Load the model, and encode the concepts."""
        self._device = prepare_device(compute)
        model = load_sam2(config, compute, self._device)
        self._detect = ConceptDetector(model, config, dtype=compute_dtype(compute))
        self._max_iou = config.reduction.mask_nms_iou

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return the sha256 of the model folder."""
        concept_options(config)
        return sam2_digest(config)

    def _fits(self, images: Sequence[ShardImage]) -> bool:
        return len(images) == 1

    def _propose(self, decode: Decode, images: Sequence[ShardImage]) -> list[ShardImage]:
        (image,) = images
        proposals, concepts = self._detect(decode(image))
        rows = np.sort(without_doubles(proposals, np.arange(len(proposals)), self._max_iou))
        # The score says that the concept is there, not how well the mask fits. So the predicted IoU is unknown.
        unknown = replace(proposals, predicted_iou=np.full(len(proposals), np.nan))
        kept = [Kept(int(row), prior=f"concept:{concepts[row]}") for row in rows]
        return [Reduction(kept, {**proposals.left, "doubles": len(kept)}).onto(image, unknown)]
