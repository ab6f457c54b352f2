"""f_θ: frozen features to K predictions, and the loss that trains the point generator (equations 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.training.ppt.losses import (
    Assignment,
    Points,
    assign,
    attention_loss,
    confidence_loss,
    mask_loss,
    matching_cost,
    point_loss,
)
from pseudoris.training.ppt.point_generator import PointGenerator, PointPrompts
from pseudoris.training.ppt.point_mask_decoder import EncodedImages, PointMaskDecoder
from pseudoris.training.ppt.ppt_config import ObjectiveConfig
from pseudoris.training.ppt.prompt_layers import grid_centres
from pseudoris.training.ppt.pseudo_labels import PseudoLabelBatch

# The logit of pixels that cannot be part of a mask.
_NOTHING: Final = -20.0
# It affects rounding, so it is a constant.
_PROMPTS_A_PASS: Final = 256


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen towers make of B pairs.

    Attributes:
        image: {V_n}, N tensors (B, C, h, w) of CLIP's image tower.
        text: T, (B, L, D) of CLIP's text tower.
        is_word: (B, L) bool, True where the expression has a token, as `learning.clip_features` gives it.
        tokens: (B, L) int64, the text tower's.
        response: (B, h, w), how much each patch fits its expression in CLIP's joint space; of each pair, mean 0 and
            standard deviation 1.
        sam: The images as SAM's decoder needs them.
    """

    image: Sequence[torch.Tensor]
    text: torch.Tensor
    is_word: torch.Tensor
    tokens: torch.Tensor
    response: torch.Tensor
    sam: EncodedImages


class LabelledFeatures:
    """What a step learns from: B pairs and their pseudo-labels.

    No dataclass, on purpose: Fabric rounds the tensors that it finds in a module's input to half precision, where a
    coordinate is right to one part in 256. It finds no tensors in an object of an unknown class.
    """

    __slots__ = ("features", "pseudo_labels")

    def __init__(self, features: FrozenFeatures, pseudo_labels: PseudoLabelBatch) -> None:
        """Take both, on one device."""
        self.features, self.pseudo_labels = features, pseudo_labels


@dataclass(frozen=True)
class Predictions:
    """{y_k} of equation 3: mask logits (B, K, 4·h, 4·w) of SAM's padded square, and the prompts they come from."""

    mask_logits: torch.Tensor
    prompts: PointPrompts


@dataclass(frozen=True)
class Referent:
    """The answer to each of B pairs: mask logits (B, 4·h, 4·w) of SAM's padded square, and its prompt.

    The prompt has no axis of queries: points (B, M, 2), labels (B, M), confidences (B,).
    """

    mask_logits: torch.Tensor
    prompts: PointPrompts


class PointPrompting(nn.Module):
    """PPT: a trainable point generator between frozen encoders and a frozen mask decoder."""

    def __init__(self, generator: PointGenerator, decoder: PointMaskDecoder, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.generator, self.objective = generator, objective
        # Not a submodule, so that a checkpoint holds only trained weights.
        self._decoder = decoder

    @overload
    def forward(self, given: FrozenFeatures) -> Predictions: ...

    @overload
    def forward(self, given: LabelledFeatures) -> dict[str, torch.Tensor]: ...

    def forward(self, given: FrozenFeatures | LabelledFeatures) -> Predictions | dict[str, torch.Tensor]:
        """Return the K predictions of each pair (equation 3); with pseudo-labels `loss`.

        Training and inference both call `forward`: only it is wrapped for precision and DDP.
        """
        if isinstance(given, LabelledFeatures):
            return self.loss(given.features, given.pseudo_labels)
        prompts = self._prompts(given)
        return Predictions(self._decode_all(given, prompts), prompts)

    @torch.no_grad()
    def referent(self, features: FrozenFeatures) -> Referent:
        """Return s_argmax{c} of each pair, the answer of the most confident query alone (section 3.1.2)."""
        prompts = self._prompts(features)
        rows = torch.arange(len(features.text), device=features.text.device)
        chosen = _at(prompts, rows, prompts.confidence_logits.argmax(-1))
        return Referent(self._decode(features.sam, rows, chosen), chosen)

    def masks_of(self, features: FrozenFeatures, referents: Referent) -> torch.Tensor:
        """Return the masks (B, 4·h, 4·w) bool of answers in SAM's padded squares, nothing in their padding."""
        logits = referents.mask_logits
        return (logits > 0) & self._decoder.inside(features.sam, logits.shape[-1])

    def loss(self, features: FrozenFeatures, pseudo_labels: PseudoLabelBatch) -> dict[str, torch.Tensor]:
        """Return the terms of equation 4 and their sum `loss`, each a scalar.

        Each is a mean over the matched pairs. The confidence term also includes the unmatched queries, with the target
        0, because inference takes the argmax over all K. The matching uses all K masks without a gradient. Only the
        matched ones are decoded again with a gradient, which needs K / E times less memory. If a prediction is not
        finite, no assignment exists: every term is NaN, and the trainer reports it.
        """
        prompts = self._prompts(features)
        with torch.no_grad():
            masks = self._decode_all(features, prompts)
            # SAM's output in the padding is not part of the answer.
            inside = self._decoder.inside(features.sam, masks.shape[-1])
            masks = masks.masked_fill(~inside[:, None], _NOTHING)
        if not _are_finite(prompts.points_xy, prompts.label_logits, prompts.confidence_logits, masks):
            return {name: masks.new_tensor(torch.nan) for name in ("loss", "mask", "point", "confidence")}
        pairs = assign(matching_cost(prompts, masks, pseudo_labels, self.objective), pseudo_labels.counts)
        matched = _at(prompts, pairs.rows, pairs.queries)
        logits = self._decoder(features.sam, pairs.rows, matched).masked_fill(~inside[pairs.rows], _NOTHING)
        terms = {
            "mask": mask_loss(logits, pseudo_labels.masks[pairs.rows, pairs.labels], self.objective).mean(),
            "point": self._point_loss(matched, pseudo_labels, pairs),
            "confidence": self._confidence_loss(prompts, pseudo_labels, pairs),
        }
        if self.objective.look:
            terms["look"] = self._attention_loss(prompts, features, pseudo_labels, pairs)
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    def _prompts(self, features: FrozenFeatures) -> PointPrompts:
        prompts: PointPrompts = self.generator(
            features.image, features.text, features.is_word, features.response, features.tokens
        )
        return prompts

    def _point_loss(self, matched: PointPrompts, pseudo_labels: PseudoLabelBatch, pairs: Assignment) -> torch.Tensor:
        """l_pt, mean over the matched pairs."""
        at = (pairs.rows, pairs.labels)
        targets = Points(pseudo_labels.points_xy[at], pseudo_labels.labels[at])
        return point_loss(Points(matched.points_xy, matched.label_logits), targets, self.objective).mean()

    def _attention_loss(
        self, prompts: PointPrompts, features: FrozenFeatures, pseudo_labels: PseudoLabelBatch, pairs: Assignment
    ) -> torch.Tensor:
        """Mean over the matched pairs."""
        if prompts.attention_log_shares is None:
            raise ValueError("these prompts have no attention")
        height, width = features.response.shape[-2:]
        shares = on_patches(pseudo_labels.masks, features.sam.input_sizes / self._decoder.image_size, height, width)
        own = prompts.attention_log_shares[pairs.rows, pairs.queries]
        return self.objective.look * attention_loss(own, shares[pairs.rows, pairs.labels]).mean()

    def _confidence_loss(
        self, prompts: PointPrompts, pseudo_labels: PseudoLabelBatch, pairs: Assignment
    ) -> torch.Tensor:
        """l_bce of all queries, for each matched pair."""
        targets = confidence_targets(prompts, pseudo_labels, pairs)
        return self.objective.confidence * confidence_loss(prompts.confidence_logits, targets).sum() / len(pairs.rows)

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
        parts = [
            self._decoder(images, rows[at : at + _PROMPTS_A_PASS], _part(prompts, at))
            for at in range(0, len(rows), _PROMPTS_A_PASS)
        ]
        return torch.cat(parts)


def on_patches(masks: torch.Tensor, extent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return about how much of each of CLIP's patches masks cover, (B, E, h·w).

    Args:
        masks: (B, E, H, W) in SAM's padded square.
        extent: (B, 2), the image's width and height in it, shares of its side.
        height: Patches on an image that is stretched to them.
        width: Likewise.
    """
    centres = grid_centres(height, width, device=masks.device)
    # grid_sample's frame: −1 to 1 from edge to edge.
    places = (2 * centres * extent[:, None] - 1).view(-1, height, width, 2)
    kernel = 2 * (masks.shape[-1] // (2 * width)) + 1
    blurred = F.avg_pool2d(masks, kernel, stride=1, padding=kernel // 2)
    return F.grid_sample(blurred, places, align_corners=False).flatten(2)


def confidence_targets(prompts: PointPrompts, pseudo_labels: PseudoLabelBatch, pairs: Assignment) -> torch.Tensor:
    """Return what each query's confidence is to be (B, K): that of its pseudo-label, 0 without one."""
    targets = torch.zeros_like(prompts.confidence_logits)
    targets[pairs.rows, pairs.queries] = pseudo_labels.confidences[pairs.rows, pairs.labels]
    return targets


def _are_finite(*tensors: torch.Tensor) -> bool:
    return bool(torch.stack([each.isfinite().all() for each in tensors]).all())


def _at(prompts: PointPrompts, rows: torch.Tensor, queries: torch.Tensor) -> PointPrompts:
    """The prompts of some queries, without an axis of queries."""
    at = (rows, queries)
    return PointPrompts(prompts.points_xy[at], prompts.label_logits[at], prompts.confidence_logits[at])


def _part(prompts: PointPrompts, first: int) -> PointPrompts:
    """A pass of prompts without an axis of queries."""
    own = slice(first, first + _PROMPTS_A_PASS)
    return PointPrompts(prompts.points_xy[own], prompts.label_logits[own], prompts.confidence_logits[own])
