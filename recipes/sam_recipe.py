"""Trains the tiny SAM: point prompts on rendered scenes, three masks per prompt, a predicted IoU for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from pseudoris.synthworld.scenes import SceneObject
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.sam_model import build_sam
from recipes.optimiser import (
    Optimiser,
    Progress,
    fast_cpu_arithmetic,
    restore_checkpoint,
    save_checkpoint,
)
from recipes.rendered_scenes import NOBODY, RenderedScenes


@dataclass(frozen=True)
class SamRecipe:
    """The numbers of the training; the defaults made the shipped weights."""

    steps: int = 5200
    images_a_step: int = 6
    object_points: int = 10
    # Grid points on the background must get a low predicted IoU, or every one of them becomes a proposal.
    background_points: int = 3
    peak_rate: float = 1.6e-3
    # The predicted IoU decides which of three masks and of many points survives: the second phase sharpens it.
    iou_weight: float = 1.0
    # Side of the grid on which masks are compared with the truth. On the logits' own grid of 64, rims thinner than half
    # a cell are missing from the target. A finer grid has them, and takes more time.
    loss_size: int = 64
    # Factor by which small objects, and objects with a part, are prompted more often: SAM misses these most.
    hard_object_weight: float = 0.0
    checkpoint_every: int = 500


@dataclass(frozen=True)
class PromptBatch:
    """images (B, 3, S, S) float RGB in [0, 255]; points (B, P, 2) xy pixels; truth (B, P, S, S) bool, may be empty."""

    images: torch.Tensor
    points: torch.Tensor
    truth: torch.Tensor


def draw_batch(data: RenderedScenes, recipe: SamRecipe, rng: np.random.Generator) -> PromptBatch:
    """Draws scenes, mirrors, turns and recolours them at random, and draws points on objects and background."""
    images, points, truths = [], [], []
    for _ in range(recipe.images_a_step):
        row = int(rng.integers(len(data.scenes)))
        image, owner = _augmented(data.images[row], data.owners[row], rng)
        hardness = [1.0 + recipe.hard_object_weight * _hardness(item) for item in data.scenes[row].objects]
        xy, truth = _draw_points(owner, np.array(hardness), recipe, rng)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float())
        points.append(torch.from_numpy(xy))
        truths.append(torch.from_numpy(truth))
    return PromptBatch(torch.stack(images), torch.stack(points), torch.stack(truths))


def _augmented(image: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight symmetries, and a permutation of the colour channels: outlines do not depend on either."""
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, owner = np.rot90(image, turns), np.rot90(owner, turns)
    if mirrored:
        image, owner = image[:, ::-1], owner[:, ::-1]
    return np.ascontiguousarray(image[..., rng.permutation(3)]), np.ascontiguousarray(owner)


def _hardness(item: SceneObject) -> int:
    """0 for a large object without a part, 2 for a small one with a part."""
    return int(item.attributes.size == "small") + int(item.attributes.part is not None)


def _draw_points(
    owner: np.ndarray, weights: np.ndarray, recipe: SamRecipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) float32 at pixel centres and the masks (P, S, S) bool below them; weights by object number."""
    numbers = np.setdiff1d(np.unique(owner), [NOBODY])
    shares = weights[numbers] / weights[numbers].sum()
    wanted = [*rng.choice(numbers, recipe.object_points, p=shares), *([NOBODY] * recipe.background_points)]
    points, masks = [], []
    for number in wanted:
        mask = owner == number
        flat = np.flatnonzero(mask)
        y, x = divmod(int(flat[rng.integers(len(flat))]), owner.shape[1])
        points.append((x + 0.5, y + 0.5))
        masks.append(mask if number != NOBODY else np.zeros_like(mask))
    return np.array(points, dtype=np.float32), np.stack(masks)


def predict(sam: Sam, batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return low-resolution logits (B, P, 3, L, L) and predicted IoU (B, P, 3) of one point each."""
    embeddings = sam.image_encoder((batch.images - sam.pixel_mean) / sam.pixel_std)
    num_images, num_points = batch.points.shape[:2]
    labels = torch.ones(num_images * num_points, 1, dtype=torch.int64)
    sparse, dense = sam.prompt_encoder(points=(batch.points.flatten(0, 1)[:, None], labels), boxes=None, masks=None)
    # The decoder takes one image and adds the dense embeddings to it: each prompt brings its own image along as these,
    # so that all images are decoded at once.
    logits, ious = sam.mask_decoder(
        image_embeddings=torch.zeros_like(embeddings[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=embeddings.repeat_interleave(num_points, 0) + dense,
        multimask_output=True,
    )
    shape = (num_images, num_points)
    return logits.unflatten(0, shape).float(), ious.unflatten(0, shape).float()


def losses(
    logits: torch.Tensor, ious: torch.Tensor, truth: torch.Tensor, *, loss_size: int = 64
) -> dict[str, torch.Tensor]:
    """Mask loss of the best of three masks plus a little of all, and the squared error of the predicted IoU.

    Targets are coverages of the cells of a grid, so that the zero crossing is where half of a cell is covered. The
    target of the predicted IoU is the IoU of the mask at full resolution.
    """
    reached = _reached_iou(logits, truth)
    if logits.shape[-1] != loss_size:
        logits = _resized(logits, loss_size)
    coverage = F.adaptive_avg_pool2d(truth.float(), loss_size)[:, :, None].expand_as(logits)
    on_object = truth.flatten(2).any(-1)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, coverage, reduction="none")
    focal = (cross_entropy * (probability - coverage).abs().square()).flatten(3).mean(-1)
    overlap = (probability * coverage).flatten(3).sum(-1)
    dice = 1 - (2 * overlap + 1) / (probability.flatten(3).sum(-1) + coverage.flatten(3).sum(-1) + 1)
    each = (20 * focal + dice + cross_entropy.flatten(3).mean(-1))[on_object]
    return {
        "mask": each.min(-1).values.mean() + 0.1 * each.mean(),
        "iou": (ious - reached).square().mean(),
        "best": reached[on_object].max(-1).values.mean(),
    }


@torch.no_grad()
def _reached_iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """IoU (B, P, 3) of the masks at full resolution, 0 on the background."""
    inside, wanted = _resized(logits, truth.shape[-1]) > 0, truth[:, :, None]
    union = (inside | wanted).flatten(3).sum(-1).clamp(min=1)
    return (inside & wanted).flatten(3).sum(-1) / union


def _resized(logits: torch.Tensor, size: int) -> torch.Tensor:
    """Logits (B, P, 3, L, L) as SAM enlarges them, to (B, P, 3, size, size)."""
    resized = F.interpolate(logits.flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    return resized.reshape(*logits.shape[:3], size, size)


def train_sam(
    architecture: str,
    data: RenderedScenes,
    recipe: SamRecipe,
    *,
    seed: int,
    checkpoint: Path,
    start_from: Path | None = None,
) -> Sam:
    """Return the trained Sam; `start_from` is the checkpoint of an earlier phase.

    An interrupted training is continued from its checkpoint.
    """
    torch.manual_seed(seed)
    sam = build_sam(sam_architecture(architecture)).train()
    if start_from is not None:
        sam.load_state_dict(torch.load(start_from, weights_only=True)["model"])
    optimiser = Optimiser(sam, recipe.steps, recipe.peak_rate)
    first = restore_checkpoint(checkpoint, sam, optimiser)
    progress = Progress("sam", recipe.steps)
    for step in range(first, recipe.steps):
        batch = draw_batch(data, recipe, np.random.default_rng([seed, step]))
        with fast_cpu_arithmetic():
            logits, ious = predict(sam, batch)
        parts = losses(logits, ious, batch.truth, loss_size=recipe.loss_size)
        optimiser.step(step, parts["mask"] + recipe.iou_weight * parts["iou"])
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, sam, optimiser)
    return sam.eval()
