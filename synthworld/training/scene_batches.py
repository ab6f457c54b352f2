"""Batches of whole scenes with noisy captions, and how the captions relate to one another and to the patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pseudoris.synthworld.noisy_captions import noisy_caption
from pseudoris.synthworld.scenes import SCENE_SIZE_PX
from pseudoris.synthworld.training.caption_crops import normalise
from pseudoris.synthworld.training.rendered_scenes import RenderedScenes

# How far from its point an object may reach: what lies nearer is neither its patch for sure nor another's.
REACH_PX = 36.0
# How far a scene is moved at most: half a patch either way, so that objects stand anywhere upon the grid.
SHIFT_PX = 6


@dataclass(frozen=True)
class SceneBatch:
    """B whole scenes with T captions, each of one object.

    Attributes:
        images: (B, 3, 192, 192) float, normalised.
        captions: (T) texts.
        owners: (T,) int64, the image of each.
        points: (T, 2) float, x and y in pixels: the middle of the object that each was said of.
    """

    images: torch.Tensor
    captions: list[str]
    owners: torch.Tensor
    points: torch.Tensor


def draw_scenes(data: RenderedScenes, count: int, rng: np.random.Generator) -> SceneBatch:
    """Return at most `count` distinct scenes, each with a fresh noisy caption of each object.

    Each is mirrored, and moved by a few pixels, at random.
    """
    rows = rng.choice(len(data.scenes), size=min(count, len(data.scenes)), replace=False)
    pixels: list[torch.Tensor] = []
    captions: list[str] = []
    owners: list[int] = []
    points: list[tuple[float, float]] = []
    for place, row in enumerate(rows.tolist()):
        is_mirrored = rng.random() < 0.5
        right, down = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist()
        image = data.images[row][:, ::-1] if is_mirrored else data.images[row]
        pixels.append(torch.from_numpy(_moved(image, right, down)).permute(2, 0, 1))
        for item in data.scenes[row].objects:
            x, y = item.centre_xy_px
            captions.append(noisy_caption(item.attributes, rng))
            owners.append(place)
            points.append(((SCENE_SIZE_PX - x if is_mirrored else x) + right, y + down))
    return SceneBatch(normalise(torch.stack(pixels)), captions, torch.tensor(owners), torch.tensor(points))


def _moved(image: np.ndarray, right: int, down: int) -> np.ndarray:
    """The image (H, W, 3) moved by at most SHIFT_PX pixels; its edge is repeated where nothing was."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0)), mode="edge")
    top, left = SHIFT_PX - down, SHIFT_PX - right
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def patches_at(points: torch.Tensor, *, patch_size: int, grid: int) -> torch.Tensor:
    """Return the four patches (T, 4) int64 around the corner of the grid that is nearest to each point (T, 2)."""
    corners = (points / patch_size).round().long().clamp(1, grid - 1)
    return torch.stack([(corners[:, 1] + dy) * grid + corners[:, 0] + dx for dy in (-1, 0) for dx in (-1, 0)], 1)


def patches_near(points: torch.Tensor, *, patch_size: int, grid: int) -> torch.Tensor:
    """Return which patches (T, h · w) bool an object may reach whose middle is at each point (T, 2)."""
    middles = (torch.arange(grid) + 0.5) * patch_size
    x, y = middles.repeat(grid), middles.repeat_interleave(grid)
    return torch.hypot(x - points[:, :1], y - points[:, 1:]) < REACH_PX


def caption_relations(
    content: torch.Tensor, owners: torch.Tensor, num_images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which captions fit which images, or objects, as far as the captions alone tell.

    content (T, W) of 0 and 1, each caption's content words; owners (T,) the images they stand under. `fits` (T, B)
    bool: a caption under the image holds all its words. `unsettled` (T, B) bool: a caption under the image holds a part
    of its words and nothing else ("a circle" there, "a red circle" here), so that the pair is no negative.
    """
    shared = content @ content.T
    count = content.sum(-1)
    member = F.one_hot(owners, num_images).to(content.dtype)
    fits = ((shared == count[:, None]).to(content.dtype) @ member) > 0
    partly = ((shared == count[None, :]).to(content.dtype) @ member) > 0
    return fits, partly & ~fits
