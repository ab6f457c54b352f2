"""What a model must offer to answer points, the points and crops that it is asked about, and SAM as such a model.

Called by the other modules of this folder, `training/ppt`, `evidence`. SAM's modules are `segment_anything`'s, so
that published weights fit. Resizing and padding must be SAM's; points and crops too, in its order and to the last bit,
because the ids of masks follow from them.
Source: segment-anything 1.0, utils/amg.py, utils/transforms.py and modeling/sam.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import build_point_grid, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import MasksConfig, WeightsConfig
from pseudoris.schemas.shard import Box
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture, sam_architecture
from pseudoris.workers.checkpoints.tensor_files import load_module
from pseudoris.workers.device import to_device
from pseudoris.workers.masks.image_encoder import FusedEncoder
from pseudoris.workers.masks.prompt_decoder import Answers, SamPromptDecoder, SharedImage
from pseudoris.workers.pass_sizes import PROMPTS_A_POINT, SAM_ENCODER_BYTES, UPSCALED_BYTES

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
    """Return one point grid for the whole image and one for each layer of crops, in the frame of a crop.

    A grid has the centres of square cells, (points², 2) float64 as x, y in (0, 1), row by row.
    """
    factor = config.crop_n_points_downscale_factor
    sides = [int(config.points_per_side / factor**layer) for layer in range(config.crop_n_layers + 1)]
    if 0 in sides:
        raise ConfigError(
            f"masks.crop_n_points_downscale_factor={factor} leaves crop layer {sides.index(0)} without points "
            f"(masks.points_per_side={config.points_per_side}): lower the factor or masks.crop_n_layers"
        )
    return tuple(map(build_point_grid, sides))


def crop_boxes(size: tuple[int, int], config: MasksConfig) -> list[tuple[Box, int]]:
    """Return the crops of an image (H, W), boxes in pixels with x1 and y1 exclusive, each with its layer.

    The whole image comes first, then layer by layer, column by column. Layer l has (2^l)² crops. In an image of a few
    pixels some crops have no pixels; they are left out.
    """
    boxes, layers = generate_crop_boxes(size, config.crop_n_layers, config.crop_overlap_ratio)
    return [
        ((x0, y0, x1, y1), layer)
        for (x0, y0, x1, y1), layer in zip(boxes, layers, strict=True)
        if x0 < size[1] and y0 < size[0]
    ]


def to_input_frame(points_xy: NDArray[np.float64], crop: EncodedCrop) -> NDArray[np.float64]:
    """Return points (P, 2) of the unit square in pixels of the encoder's input."""
    (height, width), (input_height, input_width) = crop.size, crop.input_size
    # The factors are multiplied in SAM's order, because another order rounds differently.
    in_crop = points_xy * np.array([width, height])
    in_input: NDArray[np.float64] = in_crop * np.array([input_width / width, input_height / height])
    return in_input


# SAM normalises RGB in [0, 255] with this mean and standard deviation. Source: segment-anything 1.0, build_sam.py.
_PIXEL_MEAN, _PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MASK_IN_CHANNELS, _MASKS_A_POINT = 16, 3


def build_sam(architecture: SamArchitecture) -> Sam:
    """Return a Sam in eval mode, built from the architecture's numbers, with weights drawn from torch's generator."""
    grid = architecture.image_size // architecture.patch_size
    encoder = ImageEncoderViT(
        depth=architecture.encoder_depth,
        embed_dim=architecture.encoder_width,
        img_size=architecture.image_size,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=architecture.encoder_heads,
        patch_size=architecture.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=architecture.encoder_global_blocks,
        window_size=architecture.window_size,
        out_chans=architecture.prompt_width,
    )
    prompts = PromptEncoder(
        embed_dim=architecture.prompt_width,
        image_embedding_size=(grid, grid),
        input_image_size=(architecture.image_size, architecture.image_size),
        mask_in_chans=_MASK_IN_CHANNELS,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=_MASKS_A_POINT,
        transformer=TwoWayTransformer(
            depth=architecture.decoder_depth,
            embedding_dim=architecture.prompt_width,
            mlp_dim=architecture.decoder_mlp_width,
            num_heads=architecture.decoder_heads,
        ),
        transformer_dim=architecture.prompt_width,
        iou_head_depth=architecture.iou_head_depth,
        iou_head_hidden_dim=architecture.iou_head_width,
    )
    return Sam(encoder, prompts, decoder, pixel_mean=list(_PIXEL_MEAN), pixel_std=list(_PIXEL_STD)).eval()


def load_sam(architecture: str | None, weights: WeightsConfig) -> Sam:
    """Return a Sam in eval mode, float32, on the CPU, of the architecture that a config names."""
    numbers = sam_architecture(architecture)
    return load_module(lambda: build_sam(numbers), weights)


def resized_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Return the (H, W) of an image resized to a long side of `long_side`, each side at least one pixel.

    At an aspect ratio above 2 · `long_side` SAM rounds the short side to 0 and fails; here it is 1.
    """
    height, width = ResizeLongestSide.get_preprocess_shape(*size, long_side)
    return max(1, height), max(1, width)


def encode_sam_crops(
    sam: Sam, crops: Sequence[NDArray[np.uint8]], dtype: torch.dtype, *, fused: FusedEncoder | None = None
) -> Iterator[EncodedCrop]:
    """Yield the encodings of crops (H, W, 3) uint8 RGB in order; the image encoder computes in `dtype`.

    Padded to SAM's square, crops have one shape; as many as memory allows are encoded in one pass. The encoder `fused`
    takes them one by one: bits depend on the rows of a pass, and a pass of several would be filled up for one crop.
    """
    encoder, step = sam.image_encoder, 1
    if not fused:
        # Of the largest tensors as many fit: attention scores and their softmax, in at most float32.
        height, width = sam.prompt_encoder.image_embedding_size
        num_heads = max(block.attn.num_heads for block in encoder.blocks)
        step = max(1, SAM_ENCODER_BYTES[sam.device.type] // (2 * 4 * num_heads * (height * width) ** 2))
    for first in range(0, len(crops), step):
        several = crops[first : first + step]
        # Pillow resizes bilinearly, as in the training of SAM's published weights.
        sizes = [resized_size((pixels.shape[0], pixels.shape[1]), encoder.img_size) for pixels in several]
        resized = [
            np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            for pixels, (height, width) in zip(several, sizes, strict=True)
        ]
        planes = [sam.preprocess(to_device(one, sam.device).permute(2, 0, 1)) for one in resized]
        # SAM's blocks make an index of positions. Inside this `with` they make it on the device, without a copy.
        is_autocast = dtype != torch.float32 and not fused
        with sam.device, torch.autocast(sam.device.type, dtype=dtype, enabled=is_autocast):
            embeddings = (fused or encoder)(torch.stack(planes))
        for pixels, one, embedding in zip(several, resized, embeddings.float(), strict=True):
            yield EncodedCrop((embedding,), (pixels.shape[0], pixels.shape[1]), (one.shape[0], one.shape[1]))


def upsample(logits: torch.Tensor, crop: EncodedCrop, input_side: int) -> torch.Tensor:
    """Return low-resolution logits (K, h, w) at the crop's original size, (K, H, W) float32.

    Resizes bilinearly twice, and cuts off the padding between the two steps. Source: segment-anything 1.0,
    postprocess_masks.
    """
    upsampled = F.interpolate(logits[:, None], (input_side, input_side), mode="bilinear", align_corners=False)
    height, width = crop.input_size
    upsampled = upsampled[..., :height, :width]
    if crop.input_size != crop.size:
        upsampled = F.interpolate(upsampled, crop.size, mode="bilinear", align_corners=False)
    return upsampled[:, 0]


class PromptableSam:
    """A `PromptableModel` over a Sam in eval mode on its device; encoder and transformer compute in `dtype`."""

    def __init__(self, sam: Sam, *, dtype: torch.dtype = torch.float32) -> None:
        self._sam, self._dtype = sam, dtype
        # For a GPU; else None.
        self.fused = FusedEncoder(sam.image_encoder, dtype) if sam.device.type == "cuda" else None
        self._decode = SamPromptDecoder(sam, dtype=dtype)
        self.side: int = sam.image_encoder.img_size
        # `ask` holds this many bytes for a point.
        height, width = sam.prompt_encoder.image_embedding_size
        self.bytes_a_point: int = height * width * sam.prompt_encoder.embed_dim * dtype.itemsize

    def encode(self, crops: Sequence[NDArray[np.uint8]]) -> Iterator[EncodedCrop]:
        """Yield the encodings of the crops; crops padded to SAM's square are encoded together on a CPU."""
        return encode_sam_crops(self._sam, crops, self._dtype, fused=self.fused)

    def share(self, crop: EncodedCrop) -> SharedImage:
        """Return the projections that all prompts on a crop share."""
        return self._decode.share(crop.embedding)

    def decode(
        self, shared: SharedImage, points_xy: torch.Tensor, *, min_predicted_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return three masks per point; those below the threshold are never upscaled."""
        return self._decode(shared, points_xy, min_predicted_iou=min_predicted_iou)

    def ask(self, crop: EncodedCrop, grid: PointGrid, points_per_batch: int) -> Iterator[Answers]:
        """Yield what a GPU predicts of all masks of the points of a crop's grid, before it makes them, in passes.

        A pass has the points of one crop, so no row depends on what other crops are asked. Nothing waits for the GPU.
        """
        shared, points = self.share(crop), to_device(to_input_frame(grid, crop), crop.embedding.device)
        for some in torch.split(points, PROMPTS_A_POINT * points_per_batch):
            yield from self._decode.ask(shared, some)

    def masks(self, answers: Answers, kept: NDArray[np.bool_]) -> Iterator[torch.Tensor]:
        """Yield the low-resolution logits (K, 4h, 4w) of the masks that are `kept`, (P, 3) bool, in parts.

        A part has as many points as are upscaled in one piece, because pieces of images would be copied.
        """
        step = max(1, UPSCALED_BYTES["cuda"] // (2 * self.bytes_a_point))
        needed = np.flatnonzero(kept.any(axis=1))
        for some in np.split(needed, range(step, len(needed), step)):
            of_part = np.zeros_like(kept)
            of_part[some] = kept[some]
            yield self._decode.masks(answers, of_part)

    def upsample(self, logits: torch.Tensor, crop: EncodedCrop) -> torch.Tensor:
        """Return the logits at the crop's size, by SAM's two steps."""
        return upsample(logits, crop, self.side)
