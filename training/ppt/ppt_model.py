"""PPT's (curriculum point prompting) model f_θ, for `ppt_learner`: K predictions, and their loss (equations 3 and 4).

SAM's frozen mask decoder reads the predicted points, so the mask's loss trains coordinates and labels. The loss and the
cost of matching σ(e) (section 3.1.2) share their terms. Those of masks are products of matrices for all K × E pairs at
once, which never hold K · E masks. The order of sums decides the last bits of a training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import nn

from pseudoris.training.ppt.pairs import PseudoLabelBatch
from pseudoris.training.ppt.point_generator import (
    EncodedImages,
    FrozenFeatures,
    PointGenerator,
    PointPrompts,
    grid_centres,
)
from pseudoris.training.ppt.ppt_config import ObjectiveConfig
from pseudoris.workers.device import to_device


@dataclass(frozen=True)
class Points:
    """Points (P, M, 2) in [0, 1] of P prompts or pseudo-labels, and labels (P, M): logits of a prompt, else 0 or 1."""

    xy: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Assignment:
    """R matched pairs of a batch: rows of the batch, and in each the query and the pseudo-label; (R,) int64 each."""

    rows: torch.Tensor
    queries: torch.Tensor
    labels: torch.Tensor


def mask_losses(logits: torch.Tensor, masks: torch.Tensor, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_mask (B, K, E) float32 of logits (B, K, h, w) and masks (B, E, h, w): dice and mean cross-entropy.

    Source of the dice, 1 − (2·|s·ŝ| + 1) / (|s| + |ŝ| + 1): Li et al. 2019 [31].
    """
    # In half precision a cross-entropy could fall below 0, because sums of ten thousand cells nearly cancel.
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), masks.float().flatten(2)
        flat = logits.flatten(2)
        # The cross-entropy of a cell is log(1 + exp(x)) − x·ŝ.
        cross_entropies = (F.softplus(flat).sum(-1, keepdim=True) - flat @ target.transpose(1, 2)) / flat.shape[-1]
        # `flat` is not reused, because gradients would add up in another order and change a training's last bits.
        share = logits.sigmoid().flatten(2)
        overlap, both = share @ target.transpose(1, 2), share.sum(-1)[:, :, None] + target.sum(-1)[:, None]
        return weights.dice * (1 - (2 * overlap + 1) / (both + 1)) + weights.mask_cross_entropy * cross_entropies


def point_loss(predicted: Points, target: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return l_pt (P,): L1 of the coordinates and cross-entropy of the labels, means over the M points."""
    order = corresponding(predicted, target, weights)
    xy = target.xy.gather(1, order[..., None].expand(-1, -1, 2))
    distance = (predicted.xy - xy).abs().sum(-1).mean(-1)
    label = F.binary_cross_entropy_with_logits(predicted.labels, target.labels.gather(1, order), reduction="none")
    return weights.point_l1 * distance + weights.point_label * label.mean(-1)


@torch.no_grad()
def corresponding(predicted: Points, target: Points, weights: ObjectiveConfig) -> torch.Tensor:
    """Return the point (P, M) int64 of the pseudo-label that is assigned to each predicted point.

    A pseudo-label's points are a set, drawn in no order: the assignment of least loss makes the loss one of sets.
    """
    num_pairs, num_points = predicted.labels.shape
    if weights.point_correspondence == "order":
        return torch.arange(num_points, device=predicted.xy.device).expand(num_pairs, -1)
    distance = torch.cdist(predicted.xy, target.xy, p=1)
    logits, labels = predicted.labels[:, :, None], target.labels[:, None, :]
    label = F.softplus(logits) - logits * labels
    costs = (weights.point_l1 * distance + weights.point_label * label).cpu().numpy()
    # Rows come back in order, because the matrix is square, so only the columns are needed.
    order = np.array([linear_sum_assignment(cost)[1] for cost in costs], dtype=np.int64).reshape(num_pairs, num_points)
    return to_device(order, predicted.xy.device)


@torch.no_grad()
def matching_cost(
    prompts: PointPrompts, mask_logits: torch.Tensor, pseudo_labels: PseudoLabelBatch, weights: ObjectiveConfig
) -> torch.Tensor:
    """Return the cost (B, K, E) of assigning query k to pseudo-label e; mask logits (B, K, h, w)."""
    shape = (*prompts.confidence_logits.shape, pseudo_labels.confidences.shape[1])

    def every_pair(axis: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [each.unsqueeze(axis).expand(*shape, *each.shape[2:]).flatten(0, 2) for each in tensors]

    *predicted, asked = every_pair(2, prompts.points_xy, prompts.label_logits, prompts.confidence_logits)
    *drawn, given = every_pair(1, pseudo_labels.points_xy, pseudo_labels.labels, pseudo_labels.confidences)
    points = point_loss(Points(*predicted), Points(*drawn), weights)
    confidence = F.binary_cross_entropy_with_logits(asked, given, reduction="none")
    share = weights.confidence * weights.confidence_in_matching
    return mask_losses(mask_logits, pseudo_labels.masks, weights) + (points + share * confidence).view(shape)


def assign(cost: torch.Tensor, counts: tuple[int, ...]) -> Assignment:
    """Return the assignment of least cost; `counts` is the number of real pseudo-labels among the E of each row.

    Each label has its own query; of more labels than queries the costliest have none. Source: Kuhn 1955, by scipy.
    """
    found = []
    for row, (matrix, count) in enumerate(zip(cost.detach().cpu().numpy(), counts, strict=True)):
        queries, labels = linear_sum_assignment(matrix[:, :count])
        found.append([np.full(len(queries), row), queries, labels])
    return Assignment(*to_device(np.concatenate(found, axis=1).astype(np.int64), cost.device))


def prompt_embeddings(encoder: PromptEncoder, points_xy_px: torch.Tensor, label_logits: torch.Tensor) -> torch.Tensor:
    """Return SAM's embeddings (P, M + 1, C) of points (P, M, 2) in its input's pixels, as its prompt encoder has them.

    A label (P, M), above 0 for a positive point, is a choice between two embeddings and has no gradient. Forward takes
    the choice; backward takes the mixture of both by the label's probability (straight through, Bengio et al. 2013).
    """
    # Half a pixel is added, because coordinates are those of a pixel's centre, as in SAM's prompt encoder.
    place = encoder.pe_layer.forward_with_coords(points_xy_px + 0.5, encoder.input_image_size)
    soft = label_logits.sigmoid()
    positive = ((label_logits > 0).to(soft.dtype) + soft - soft.detach())[..., None]
    negative_row, positive_row = (encoder.point_embeddings[label].weight for label in (0, 1))
    embedded = place + positive * positive_row + (1 - positive) * negative_row
    # Without a box, SAM's prompt encoder also appends a point with the label "not a point".
    return torch.cat([embedded, encoder.not_a_point_embed.weight.expand(len(place), 1, -1)], dim=1)


class PointMaskDecoder:
    """SAM's prompt encoder and mask decoder, frozen, behind normalised points; `image_size` is the square's side."""

    def __init__(self, sam: Sam) -> None:
        """Freeze `sam`."""
        self.image_size = int(sam.image_encoder.img_size)
        self._prompts: PromptEncoder = sam.prompt_encoder.requires_grad_(False).eval()
        self._decoder: MaskDecoder = sam.mask_decoder.requires_grad_(False).eval()

    def __call__(self, images: EncodedImages, rows: torch.Tensor, prompts: PointPrompts) -> torch.Tensor:
        """Return mask logits (P, 4·h, 4·w) float32 in the frame of the encoder's padded square.

        `rows` (P,) int64 are the prompts' images, of B. Prompts have no axis of queries: points (P, M, 2).
        """
        # Points are computed in full precision, because half precision would move them to other pixels.
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


# Pixels that cannot belong to a mask get this logit.
_NOTHING: Final = -20.0
# This many prompts are decoded at once. It is no setting, because another number may round differently.
_PROMPTS_A_PASS: Final = 256


class LabelledFeatures:
    """What a step learns from: B pairs and their pseudo-labels.

    It is no dataclass: Fabric would round the tensors that it finds to half precision, one part in 256 of a coordinate.
    """

    __slots__ = ("features", "pseudo_labels")

    def __init__(self, features: FrozenFeatures, pseudo_labels: PseudoLabelBatch) -> None:
        """Take both, on one device."""
        self.features, self.pseudo_labels = features, pseudo_labels


@dataclass(frozen=True)
class PredictedMasks:
    """{y_k} of equation 3: mask logits (B, K, 4·h, 4·w) of SAM's padded square, and the prompts they come from.

    Those of the referents alone have no axis of queries: (B, 4·h, 4·w), points (B, M, 2), confidences (B,).
    """

    mask_logits: torch.Tensor
    prompts: PointPrompts


class PointPrompting(nn.Module):
    """PPT: a trainable point generator between frozen encoders and a frozen mask decoder."""

    def __init__(self, generator: PointGenerator, decoder: PointMaskDecoder, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.generator, self.objective = generator, objective
        # The decoder is no submodule, so that a checkpoint holds only trained weights.
        self._decoder = decoder

    def forward(self, given: LabelledFeatures) -> dict[str, torch.Tensor]:
        """Return `loss` and its terms: what a step calls, for `forward` alone is wrapped for precision and DDP."""
        return self.loss(given.features, given.pseudo_labels)

    def predictions(self, features: FrozenFeatures) -> PredictedMasks:
        """Return the K predictions of each pair (equation 3)."""
        prompts: PointPrompts = self.generator(features)
        return PredictedMasks(self._decode_all(features, prompts), prompts)

    @torch.no_grad()
    def referent(self, features: FrozenFeatures) -> PredictedMasks:
        """Return s_argmax{c} of each pair, the answer of the most confident query alone (section 3.1.2)."""
        prompts: PointPrompts = self.generator(features)
        rows = torch.arange(len(features.text), device=features.text.device)
        chosen = prompts.at((rows, prompts.confidence_logits.argmax(-1)))
        return PredictedMasks(self._decode(features.sam, rows, chosen), chosen)

    def masks_of(self, features: FrozenFeatures, referents: PredictedMasks) -> torch.Tensor:
        """Return the masks (B, 4·h, 4·w) bool of answers in SAM's padded squares, nothing in their padding."""
        logits = referents.mask_logits
        return (logits > 0) & self._decoder.inside(features.sam, logits.shape[-1])

    def loss(self, features: FrozenFeatures, pseudo_labels: PseudoLabelBatch) -> dict[str, torch.Tensor]:
        """Return the terms of equation 4 and their sum `loss`, each a scalar, a mean over the matched pairs.

        The confidence term includes the unmatched queries, with the target 0, because inference takes the argmax over
        all K. Matching needs no gradient: only the matched masks are decoded again with one, in K / E times less
        memory. If a prediction is not finite, no assignment exists: every term is NaN, and the trainer reports it.
        """
        prompts: PointPrompts = self.generator(features)
        with torch.no_grad():
            masks = self._decode_all(features, prompts)
            # SAM's logits in the padding are replaced by "no mask", because they have no meaning.
            inside = self._decoder.inside(features.sam, masks.shape[-1])
            masks = masks.masked_fill(~inside[:, None], _NOTHING)
        found = (prompts.points_xy, prompts.label_logits, prompts.confidence_logits, masks)
        if not bool(torch.stack([each.isfinite().all() for each in found]).all()):
            return {name: masks.new_tensor(torch.nan) for name in ("loss", "mask", "point", "confidence")}
        pairs = assign(matching_cost(prompts, masks, pseudo_labels, self.objective), pseudo_labels.counts)
        at = (pairs.rows, pairs.labels)
        matched = prompts.at((pairs.rows, pairs.queries))
        logits = self._decoder(features.sam, pairs.rows, matched).masked_fill(~inside[pairs.rows], _NOTHING)
        points = Points(matched.points_xy, matched.label_logits)
        drawn = Points(pseudo_labels.points_xy[at], pseudo_labels.labels[at])
        # A query's target is the confidence of its pseudo-label, or 0 without one.
        targets = torch.zeros_like(prompts.confidence_logits)
        targets[pairs.rows, pairs.queries] = pseudo_labels.confidences[at]
        said = F.binary_cross_entropy_with_logits(prompts.confidence_logits, targets, reduction="none")
        terms = {
            "mask": mask_losses(logits[:, None], pseudo_labels.masks[at][:, None], self.objective)[:, 0, 0].mean(),
            "point": point_loss(points, drawn, self.objective).mean(),
            "confidence": self.objective.confidence * said.sum() / len(pairs.rows),
        }
        if self.objective.look:
            if prompts.attention_log_shares is None:
                raise ValueError("these prompts have no attention")
            # The term is the Kullback-Leibler divergence of matched queries' attention from their masks.
            extent = features.sam.input_sizes / self._decoder.image_size
            covered = on_patches(pseudo_labels.masks, extent, *features.response.shape[-2:])[at]
            # The clamp makes a mask that covers no patch give 0.
            target = covered / covered.sum(-1, keepdim=True).clamp(min=1e-6)
            own = prompts.attention_log_shares[pairs.rows, pairs.queries]
            terms["look"] = self.objective.look * F.kl_div(own, target, reduction="none").sum(-1).mean()
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    def _decode_all(self, features: FrozenFeatures, prompts: PointPrompts) -> torch.Tensor:
        """Mask logits (B, K, h, w) of every query."""
        batch, queries = prompts.confidence_logits.shape
        rows = torch.arange(batch, device=prompts.points_xy.device).repeat_interleave(queries)
        flat = PointPrompts(
            prompts.points_xy.flatten(0, 1), prompts.label_logits.flatten(0, 1), prompts.confidence_logits.flatten()
        )
        logits = self._decode(features.sam, rows, flat)
        return logits.view(batch, queries, *logits.shape[1:])

    def _decode(self, images: EncodedImages, rows: torch.Tensor, prompts: PointPrompts) -> torch.Tensor:
        """Mask logits (P, h, w) of prompts, some at a time: of SAM ViT-B each takes 30 MB while it is decoded."""
        passes = [slice(first, first + _PROMPTS_A_PASS) for first in range(0, len(rows), _PROMPTS_A_PASS)]
        return torch.cat([self._decoder(images, rows[own], prompts.at(own)) for own in passes])


def on_patches(masks: torch.Tensor, extent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return about how much of each of CLIP's patches masks cover, (B, E, h·w).

    Masks are (B, E, H, W) in SAM's padded square; `extent` (B, 2) has the image's width and height in it as shares of
    its side. `height` and `width` count the patches, on an image that is stretched to them.
    """
    centres = grid_centres(height, width, device=masks.device)
    # `grid_sample` reads coordinates from −1 to 1, from edge to edge.
    places = (2 * centres * extent[:, None] - 1).view(-1, height, width, 2)
    kernel = 2 * (masks.shape[-1] // (2 * width)) + 1
    blurred = F.avg_pool2d(masks, kernel, stride=1, padding=kernel // 2)
    return F.grid_sample(blurred, places, align_corners=False).flatten(2)
