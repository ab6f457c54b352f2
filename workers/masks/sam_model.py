"""Builds and loads SAM, and maps crops to its input and its masks back to crops.

Called by `generator.py`, `training/ppt` and `recipes`. The modules are `segment_anything`'s, so that published weights
fit; resizing and padding must be SAM's.
Source: segment-anything 1.0, utils/transforms.py and modeling/sam.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture, sam_architecture
from pseudoris.workers.checkpoints.tensor_files import load_module
from pseudoris.workers.device import to_device
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, SharedImage
from pseudoris.workers.masks.promptable import EncodedCrop, PointGrid, to_input_frame
from pseudoris.workers.pass_sizes import POINTS_A_CROP, SAM_ENCODER_BYTES

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
    height, width = size
    scale = long_side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def encode_sam_crops(
    sam: Sam, crops: Sequence[NDArray[np.uint8]], dtype: torch.dtype, *, crops_a_pass: int | None = None
) -> Iterator[EncodedCrop]:
    """Yield the encodings of crops (H, W, 3) uint8 RGB in order; the image encoder computes in `dtype`.

    Padded to SAM's square, crops have one shape; as many as memory allows are encoded in one pass. `crops_a_pass`
    limits that number and fills up the last pass: then all passes have equally many rows, on which bits depend.
    """
    encoder = sam.image_encoder
    # The number of crops follows from the largest tensors: attention scores and their softmax, in at most float32.
    height, width = sam.prompt_encoder.image_embedding_size
    num_heads = max(block.attn.num_heads for block in encoder.blocks)
    step = max(1, SAM_ENCODER_BYTES[sam.device.type] // (2 * 4 * num_heads * (height * width) ** 2))
    step = min(step, crops_a_pass or step)
    for first in range(0, len(crops), step):
        several = crops[first : first + step]
        # Pillow resizes bilinearly, as in the training of SAM's published weights.
        sizes = [resized_size((pixels.shape[0], pixels.shape[1]), encoder.img_size) for pixels in several]
        resized = [
            np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            for pixels, (height, width) in zip(several, sizes, strict=True)
        ]
        planes = [sam.preprocess(to_device(one, sam.device).permute(2, 0, 1)) for one in resized]
        if crops_a_pass:
            planes += planes[:1] * (step - len(planes))
        # SAM's blocks make an index of positions. Inside this `with` they make it on the device, without a copy.
        with sam.device, torch.autocast(sam.device.type, dtype=dtype, enabled=dtype != torch.float32):
            embeddings = encoder(torch.stack(planes))
        for pixels, one, embedding in zip(several, resized, embeddings.float(), strict=False):
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
        self._decode = SamPromptDecoder(sam, dtype=dtype)
        self.side: int = sam.image_encoder.img_size
        self.is_on_gpu = sam.device.type == "cuda"
        # `answer_together` returns this many bytes of logits for a point.
        self.bytes_a_point: int = _MASKS_A_POINT * math.prod(sam.prompt_encoder.mask_input_size) * dtype.itemsize

    def encode(self, crops: Sequence[NDArray[np.uint8]]) -> Iterator[EncodedCrop]:
        """Yield the encodings of the crops; crops padded to SAM's square are encoded together."""
        return encode_sam_crops(self._sam, crops, self._dtype)

    def share(self, crop: EncodedCrop) -> SharedImage:
        """Return the projections that all prompts on a crop share."""
        return self._decode.share(crop.embedding)

    def decode(
        self, shared: SharedImage, points_xy: torch.Tensor, *, min_predicted_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return three masks per point; those below the threshold are never upscaled."""
        return self._decode(shared, points_xy, min_predicted_iou=min_predicted_iou)

    def answer_together(
        self, crops: Sequence[NDArray[np.uint8]], grids: Sequence[PointGrid], points_per_batch: int
    ) -> tuple[list[EncodedCrop], torch.Tensor, torch.Tensor]:
        """Return the encodings of crops, and all masks of the points of their grids, as `decode_together` does."""
        crops_a_pass = max(1, points_per_batch // POINTS_A_CROP)
        encoded = list(encode_sam_crops(self._sam, crops, self._dtype, crops_a_pass=crops_a_pass))
        points = [to_input_frame(grid, crop) for grid, crop in zip(grids, encoded, strict=True)]
        embeddings = torch.stack([crop.embedding for crop in encoded])
        return encoded, *self._decode.decode_together(embeddings, points, points_per_batch)

    def upsample(self, logits: torch.Tensor, crop: EncodedCrop) -> torch.Tensor:
        """Return the logits at the crop's size, by SAM's two steps."""
        return upsample(logits, crop, self.side)
