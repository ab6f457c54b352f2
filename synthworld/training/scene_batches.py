"""Batches of whole scenes, each with the noisy captions of its objects, and what the captions say of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from synthworld.captions import noisy_caption
from synthworld.scenes import SCENE_SIZE_PX
from synthworld.training.crops import normalise
from synthworld.training.rendered import RenderedScenes


@dataclass(frozen=True)
class SceneBatch:
    """images (B, 3, 192, 192) float, normalised; T captions, and the image (T,) int64 under which each stands."""

    images: torch.Tensor
    captions: list[str]
    owners: torch.Tensor


def draw_scenes(data: RenderedScenes, count: int, rng: np.random.Generator) -> SceneBatch:
    """Returns at most `count` distinct scenes, each mirrored at random, with a fresh noisy caption of each object."""
    rows = rng.choice(len(data.scenes), size=min(count, len(data.scenes)), replace=False)
    pixels: list[torch.Tensor] = []
    captions: list[str] = []
    owners: list[int] = []
    for place, row in enumerate(rows.tolist()):
        image = torch.from_numpy(np.array(data.images[row])).permute(2, 0, 1)
        pixels.append(image.flip(-1) if rng.random() < 0.5 else image)
        said = [noisy_caption(item.attributes, rng) for item in data.scenes[row].objects]
        captions += said
        owners += [place] * len(said)
    return SceneBatch(normalise(torch.stack(pixels)), captions, torch.tensor(owners))


def draw_windows(
    num_images: int, a_scene: int, side_range_px: tuple[float, float], rng: np.random.Generator
) -> torch.Tensor:
    """Returns square windows (B · a_scene, 5) float of (image, x0, y0, x1, y1), anywhere and of any side in the range.

    Where objects stand is not asked.
    """
    side = rng.uniform(*side_range_px, (num_images, a_scene))
    corner = rng.uniform(0, SCENE_SIZE_PX - side, (2, num_images, a_scene))
    image = np.broadcast_to(np.arange(num_images)[:, None], side.shape)
    boxes = np.stack([image, corner[0], corner[1], corner[0] + side, corner[1] + side], axis=-1)
    return torch.from_numpy(boxes.reshape(-1, 5)).float()


def caption_relations(
    content: torch.Tensor, owners: torch.Tensor, num_images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which captions fit which images, as far as the captions alone tell.

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
