"""Trains the tiny SAM: one point and three masks a prompt, with a predicted IoU each; then several points and one mask.

Mask proposal prompts with one positive point and uses three masks, so it never trains SAM's first mask token and its
embedding of negative points. A learner that writes point prompts (`pseudoris.training.ppt`) needs both. The image
encoder does not change in that phase, so both uses share its output. `training_plan` calls both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from evidence.recipes.optimiser import Recipe, fast_cpu_arithmetic, fit, load_module
from evidence.recipes.scene_shards import NOBODY, RenderedScenes
from pseudoris.synthworld.scenes import SceneObject
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.sam_model import build_sam


@dataclass(frozen=True)
class SamRecipe(Recipe):
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
    labels = torch.ones(batch.points[..., 0].numel(), 1, dtype=torch.int64)
    return _decoded(sam, embeddings, batch.points[:, :, None], labels, has_three_masks=True)


def _decoded(
    sam: Sam, embeddings: torch.Tensor, points: torch.Tensor, labels: torch.Tensor, *, has_three_masks: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, P, K, L, L) and predicted IoU (B, P, K) of points (B, P, M, 2), labels (B · P, M)."""
    shape = points.shape[:2]
    sparse, dense = sam.prompt_encoder(points=(points.flatten(0, 1), labels), boxes=None, masks=None)
    # The decoder takes one image and adds the dense embeddings to it: each prompt brings its own image along as these,
    # so that all images are decoded at once.
    logits, ious = sam.mask_decoder(
        image_embeddings=torch.zeros_like(embeddings[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=embeddings.repeat_interleave(shape[1], 0) + dense,
        multimask_output=has_three_masks,
    )
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
    each = _mask_loss(logits, coverage)[on_object]
    return {
        "mask": each.min(-1).values.mean() + 0.1 * each.mean(),
        "iou": (ious - reached).square().mean(),
        "best": reached[on_object].max(-1).values.mean(),
    }


@torch.no_grad()
def _reached_iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return _iou(_resized(logits, truth.shape[-1]) > 0, truth[:, :, None])


def _iou(inside: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    union = (inside | wanted).flatten(-2).sum(-1).clamp(min=1)
    return (inside & wanted).flatten(-2).sum(-1) / union


def _mask_loss(logits: torch.Tensor, coverage: torch.Tensor) -> torch.Tensor:
    """Focal loss, dice and cross entropy of each mask (…, L, L) against the coverage of its cells."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, coverage, reduction="none")
    focal = (cross_entropy * (probability - coverage).abs().square()).flatten(-2).mean(-1)
    overlap = (probability * coverage).flatten(-2).sum(-1)
    dice = 1 - (2 * overlap + 1) / (probability.flatten(-2).sum(-1) + coverage.flatten(-2).sum(-1) + 1)
    return 20 * focal + dice + cross_entropy.flatten(-2).mean(-1)


def _resized(logits: torch.Tensor, size: int) -> torch.Tensor:
    """Logits (B, P, 3, L, L) as SAM enlarges them, to (B, P, 3, size, size)."""
    resized = F.interpolate(logits.flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    return resized.reshape(*logits.shape[:3], size, size)


def train_sam(
    architecture: str | None,
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
        load_module(start_from, sam)

    def step_losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = draw_batch(data, recipe, np.random.default_rng([seed, step]))
        with fast_cpu_arithmetic():
            logits, ious = predict(sam, batch)
        parts = losses(logits, ious, batch.truth, loss_size=recipe.loss_size)
        return parts["mask"] + recipe.iou_weight * parts["iou"], parts

    fit("sam", sam, recipe, checkpoint, step_losses)
    return sam.eval()


_ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class PromptRecipe(Recipe):
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
    labels = prompts.labels.flatten(0, 1)
    logits, ious = _decoded(sam, embeddings, prompts.points, labels, has_three_masks=False)
    return logits[:, :, 0], ious[:, :, 0]


def prompt_losses(
    logits: torch.Tensor, ious: torch.Tensor, truth: torch.Tensor, *, loss_size: int
) -> dict[str, torch.Tensor]:
    """Cross entropy and dice against each cell's coverage, and the squared error of the predicted IoU."""
    resized = F.interpolate(logits, (loss_size, loss_size), mode="bilinear", align_corners=False)
    coverage = F.adaptive_avg_pool2d(truth.float(), loss_size)
    with torch.no_grad():
        reached = _iou(resized > 0, coverage >= 0.5)
    return {
        "mask": _mask_loss(resized, coverage).mean(),
        "iou": (ious - reached).square().mean(),
        "reached": reached.mean(),
    }


def train_sam_prompts(sam: Sam, data: RenderedScenes, recipe: PromptRecipe, *, seed: int, checkpoint: Path) -> Sam:
    """Return `sam` with its prompt encoder and mask decoder trained on; continued from its checkpoint."""
    torch.manual_seed(seed)
    embeddings = encoded(sam, data, recipe.num_scenes)
    sam.image_encoder.requires_grad_(False)
    sam.mask_decoder.train()

    def step_losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        prompts = draw_prompts(data, recipe, np.random.default_rng([seed, step]))
        with fast_cpu_arithmetic():
            logits, ious = predict_single(sam, embeddings[torch.from_numpy(prompts.rows)].float(), prompts)
        parts = prompt_losses(logits, ious, prompts.truth, loss_size=recipe.loss_size)
        return parts["mask"] + parts["iou"], parts

    fit("sam prompts", sam, recipe, checkpoint, step_losses)
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
