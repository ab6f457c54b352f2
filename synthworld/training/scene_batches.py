"""Batches of whole scenes and of close-ups with noisy captions, and what the captions say of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from synthworld.captions import noisy_caption
from synthworld.scenes import SCENE_SIZE_PX
from synthworld.training.crops import normalise
from synthworld.training.rendered import RenderedScenes

# Six patches: room for the largest object, and rarely for a second one.
CLOSE_UP_SIZE_PX = 72
# Half a patch: an object of a scene is never farther from the next corner of four patches.
CLOSE_UP_SHIFT_PX = 6.0


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


@dataclass(frozen=True)
class CloseUpBatch:
    """images (N, 3, 72, 72) float of scene pixels, normalised; N captions."""

    images: torch.Tensor
    captions: list[str]


def draw_close_ups(data: RenderedScenes, count: int, rng: np.random.Generator) -> CloseUpBatch:
    """Returns `count` close-ups of objects, whole scenes at a time, each mirrored at random, with a noisy caption.

    A close-up is a part of a scene at the scene's own scale, its object roughly in the middle.
    """
    frames: list[torch.Tensor] = []
    captions: list[str] = []
    while len(frames) < count:
        row = int(rng.integers(len(data.scenes)))
        image = torch.from_numpy(np.array(data.images[row])).permute(2, 0, 1)
        for item in data.scenes[row].objects:
            middle = np.array(item.centre_xy_px) + rng.uniform(-CLOSE_UP_SHIFT_PX, CLOSE_UP_SHIFT_PX, 2)
            x, y = np.clip(np.rint(middle - CLOSE_UP_SIZE_PX / 2).astype(int), 0, SCENE_SIZE_PX - CLOSE_UP_SIZE_PX)
            frame = image[:, y : y + CLOSE_UP_SIZE_PX, x : x + CLOSE_UP_SIZE_PX]
            frames.append(frame.flip(-1) if rng.random() < 0.5 else frame)
            captions.append(noisy_caption(item.attributes, rng))
    return CloseUpBatch(normalise(torch.stack(frames[:count])), captions[:count])


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
