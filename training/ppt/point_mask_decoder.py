"""Feeds predicted points to SAM's frozen mask decoder, so that the mask's loss trains coordinates and labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam

from pseudoris.training.ppt.point_generator import PointPrompts


@dataclass(frozen=True)
class EncodedImages:
    """Images as SAM's decoder needs them.

    Attributes:
        embeddings: (B, C, h, w) float32 of SAM's image encoder.
        input_sizes: (B, 2) float32, width and height in pixels at which the encoder saw them, without padding.
    """

    embeddings: torch.Tensor
    input_sizes: torch.Tensor


def prompt_embeddings(encoder: PromptEncoder, points_xy_px: torch.Tensor, label_logits: torch.Tensor) -> torch.Tensor:
    """Return SAM's embeddings (P, M + 1, C) of points, equal to those of its prompt encoder for hard labels.

    A label is a choice between two embeddings and has no gradient. Forward takes the choice, as inference does;
    backward takes the mixture of both by the label's probability (straight through, Bengio et al. 2013).

    Args:
        encoder: SAM's; its image size is the frame.
        points_xy_px: (P, M, 2) pixels of the encoder's input.
        label_logits: (P, M), above 0 for a positive point.
    """
    # As the prompt encoder does: to the centre of a pixel.
    place = encoder.pe_layer.forward_with_coords(points_xy_px + 0.5, encoder.input_image_size)
    soft = label_logits.sigmoid()
    positive = ((label_logits > 0).to(soft.dtype) + soft - soft.detach())[..., None]
    negative_row, positive_row = (encoder.point_embeddings[label].weight for label in (0, 1))
    embedded = place + positive * positive_row + (1 - positive) * negative_row
    # Without a box SAM appends a point that is none.
    return torch.cat([embedded, encoder.not_a_point_embed.weight.expand(len(place), 1, -1)], dim=1)


class PointMaskDecoder:
    """SAM's prompt encoder and mask decoder, frozen, behind normalised points.

    Attributes:
        image_size: Side of the padded square in pixels.
    """

    def __init__(self, sam: Sam) -> None:
        """Freeze `sam`."""
        self.image_size = int(sam.image_encoder.img_size)
        self._prompts: PromptEncoder = sam.prompt_encoder.requires_grad_(False).eval()
        self._decoder: MaskDecoder = sam.mask_decoder.requires_grad_(False).eval()

    def __call__(self, images: EncodedImages, rows: torch.Tensor, prompts: PointPrompts) -> torch.Tensor:
        """Return mask logits (P, 4·h, 4·w) float32 in the frame of the encoder's padded square.

        Args:
            images: B encoded images.
            rows: (P,) int64, the image of each prompt.
            prompts: P prompts without an axis of queries: points (P, M, 2), labels (P, M), confidences (P,).
        """
        # Whatever the decoder computes in: in half precision a point would move to another pixel.
        with torch.autocast(rows.device.type, enabled=False):
            points = prompts.points_xy * images.input_sizes[rows][:, None, :]
            sparse = prompt_embeddings(self._prompts, points, prompts.label_logits)
            dense_pe = self._prompts.get_dense_pe()
        dense = self._prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        # The decoder takes one image and adds the dense embeddings to it: each prompt brings its own image along as
        # these, so that prompts of several images are decoded at once.
        logits, _ = self._decoder(
            image_embeddings=torch.zeros_like(images.embeddings[:1]),
            image_pe=dense_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=images.embeddings[rows] + dense,
            multimask_output=False,
        )
        single: torch.Tensor = logits[:, 0].float()
        return single

    def inside(self, images: EncodedImages, side: int) -> torch.Tensor:
        """Return which cells (B, side, side) bool of the padded squares show something of their images."""
        starts = torch.arange(side, device=images.input_sizes.device) * (self.image_size / side)
        columns, rows = (starts < images.input_sizes[:, axis, None] for axis in (0, 1))
        return rows[:, :, None] & columns[:, None, :]
