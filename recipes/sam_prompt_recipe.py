"""Trains SAM further for prompts of several points, positive and negative, and its single mask.

Mask proposal prompts with one positive point and uses three masks, so it never trains SAM's first mask token and its
embedding of negative points. A learner that writes point prompts (`pseudoris.training.ppt`) needs both. The image
encoder does not change, so both uses share its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from recipes.optimiser import (
    Optimiser,
    Progress,
    fast_cpu_arithmetic,
    restore_checkpoint,
    save_checkpoint,
)
from recipes.rendered_scenes import NOBODY, RenderedScenes

_ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class PromptRecipe:
    """The numbers of this phase; the defaults made the shipped weights."""

    steps: int = 1500
    num_scenes: int = 2000
    images_a_step: int = 8
    prompts_an_image: int = 6
    # The number of points changes from step to step, up to the most that the learner will use.
    max_points: int = 9
    # How far a point may be from where its label is true: a learner's points are never exact.
    jitter_px: float = 2.0
    # The box that points are drawn in, larger than the mask's own by this factor at most.
    max_box_scale: float = 1.3
    peak_rate: float = 5e-4
    loss_size: int = 96
    checkpoint_every: int = 500


@dataclass(frozen=True)
class PointPromptBatch:
    """rows (B,) scene numbers; points (B, P, M, 2) xy pixels; labels (B, P, M) 0 or 1; truth (B, P, S, S) bool."""

    rows: np.ndarray
    points: torch.Tensor
    labels: torch.Tensor
    truth: torch.Tensor


def draw_prompts(data: RenderedScenes, recipe: PromptRecipe, rng: np.random.Generator) -> PointPromptBatch:
    """Draws scenes, objects and, uniformly in an object's box, points: inside the mask positive, outside negative."""
    rows = rng.integers(recipe.num_scenes, size=recipe.images_a_step)
    num_points = int(rng.integers(1, recipe.max_points + 1))
    points, labels, truths = [], [], []
    for row in rows:
        owner = data.owners[row]
        for number in rng.choice(np.setdiff1d(np.unique(owner), [NOBODY]), recipe.prompts_an_image):
            mask = owner == number
            xy, label = points_in_box(mask, num_points, rng, box_scale=rng.uniform(1.0, recipe.max_box_scale))
            points.append(xy + rng.normal(0.0, recipe.jitter_px, xy.shape))
            labels.append(label)
            truths.append(mask)
    shape = (len(rows), recipe.prompts_an_image)
    return PointPromptBatch(
        rows,
        torch.from_numpy(np.array(points, dtype=np.float32).reshape(*shape, num_points, 2)),
        torch.from_numpy(np.array(labels).reshape(*shape, num_points)),
        torch.from_numpy(np.stack(truths).reshape(*shape, *owner.shape)),
    )


def points_in_box(
    mask: np.ndarray, num_points: int, rng: np.random.Generator, *, box_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (M, 2) xy at pixel centres, uniform in the mask's scaled box, and labels (M,) int64, 1 inside.

    The first point is drawn from the mask itself: a prompt without a positive point names nothing.
    """
    ys, xs = np.nonzero(mask)
    first = int(rng.integers(len(ys)))
    low = np.array([xs.min(), ys.min()], dtype=np.float64)
    high = np.array([xs.max() + 1, ys.max() + 1], dtype=np.float64)
    centre, half = (low + high) / 2, (high - low) / 2 * box_scale
    limit = np.array([mask.shape[1], mask.shape[0]]) - 1
    drawn = rng.uniform(centre - half, centre + half, size=(num_points, 2))
    pixels = np.clip(np.floor(drawn), 0, limit).astype(np.int64)
    pixels[0] = xs[first], ys[first]
    return pixels + 0.5, mask[pixels[:, 1], pixels[:, 0]].astype(np.int64)


def predict_single(sam: Sam, embeddings: torch.Tensor, prompts: PointPromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the single mask's logits (B, P, L, L) and predicted IoU (B, P); embeddings (B, C, h, w)."""
    shape = prompts.points.shape[:2]
    points = (prompts.points.flatten(0, 1), prompts.labels.flatten(0, 1))
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
    logits, ious = sam.mask_decoder(
        image_embeddings=torch.zeros_like(embeddings[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=embeddings.repeat_interleave(shape[1], 0) + dense,
        multimask_output=False,
    )
    return logits[:, 0].float().unflatten(0, shape), ious[:, 0].float().unflatten(0, shape)


def prompt_losses(
    logits: torch.Tensor, ious: torch.Tensor, truth: torch.Tensor, *, loss_size: int
) -> dict[str, torch.Tensor]:
    """Cross entropy and dice against each cell's coverage, and the squared error of the predicted IoU."""
    resized = F.interpolate(logits, (loss_size, loss_size), mode="bilinear", align_corners=False)
    coverage = F.adaptive_avg_pool2d(truth.float(), loss_size)
    cross_entropy = F.binary_cross_entropy_with_logits(resized, coverage, reduction="none")
    probability = resized.sigmoid()
    focal = (cross_entropy * (probability - coverage).abs().square()).flatten(2).mean(-1)
    overlap = (probability * coverage).flatten(2).sum(-1)
    dice = 1 - (2 * overlap + 1) / (probability.flatten(2).sum(-1) + coverage.flatten(2).sum(-1) + 1)
    with torch.no_grad():
        inside, wanted = resized > 0, coverage >= 0.5
        union = (inside | wanted).flatten(2).sum(-1).clamp(min=1)
        reached = (inside & wanted).flatten(2).sum(-1) / union
    return {
        "mask": (20 * focal + dice + cross_entropy.flatten(2).mean(-1)).mean(),
        "iou": (ious - reached).square().mean(),
        "reached": reached.mean(),
    }


def train_sam_prompts(sam: Sam, data: RenderedScenes, recipe: PromptRecipe, *, seed: int, checkpoint: Path) -> Sam:
    """Return `sam` with its prompt encoder and mask decoder trained on; continued from its checkpoint."""
    torch.manual_seed(seed)
    embeddings = encoded(sam, data, recipe.num_scenes)
    sam.image_encoder.requires_grad_(False)
    sam.mask_decoder.train()
    optimiser = Optimiser(sam, recipe.steps, recipe.peak_rate)
    first = restore_checkpoint(checkpoint, sam, optimiser)
    progress = Progress("sam prompts", recipe.steps)
    for step in range(first, recipe.steps):
        prompts = draw_prompts(data, recipe, np.random.default_rng([seed, step]))
        with fast_cpu_arithmetic():
            logits, ious = predict_single(sam, embeddings[torch.from_numpy(prompts.rows)].float(), prompts)
        parts = prompt_losses(logits, ious, prompts.truth, loss_size=recipe.loss_size)
        optimiser.step(step, parts["mask"] + parts["iou"])
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, sam, optimiser)
    return sam.eval()


@torch.no_grad()
def encoded(sam: Sam, data: RenderedScenes, count: int) -> torch.Tensor:
    """Return the encodings (S, C, h, w) float16 of the first `count` scenes."""
    parts = []
    for start in range(0, count, _ENCODED_AT_ONCE):
        images = torch.from_numpy(np.array(data.images[start : min(start + _ENCODED_AT_ONCE, count)]))
        planes = (images.permute(0, 3, 1, 2).float() - sam.pixel_mean) / sam.pixel_std
        parts.append(sam.image_encoder(planes).half())
    return torch.cat(parts)
