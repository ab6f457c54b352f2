"""Batches of (crop, noisy caption) pairs, whole scenes at a time: a scene's other objects are the hard negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from synthworld.captions import noisy_caption
from synthworld.training.crops import CONTEXT, MASKED, CropSet, normalise


@dataclass(frozen=True)
class PairBatch:
    """images (B, 3, 96, 96) float, normalised; captions B texts."""

    images: torch.Tensor
    captions: list[str]


class PairSampler:
    """Draws batches from one or several crop sets (true masks, SAM's masks), each set with its share."""

    def __init__(self, sets: list[CropSet], shares: list[float]) -> None:
        """Indexes the crops by scene."""
        self._sets, self._shares = sets, shares
        self._bounds = [_scene_bounds(crops.scenes) for crops in sets]

    def draw(self, num_crops: int, rng: np.random.Generator, *, masked_share: float) -> PairBatch:
        """Return at least `num_crops` pairs of whole scenes; each crop mirrored at random, with a fresh caption."""
        pixels: list[torch.Tensor] = []
        captions: list[str] = []
        while len(captions) < num_crops:
            choice = int(rng.choice(len(self._sets), p=self._shares))
            crops, bounds = self._sets[choice], self._bounds[choice]
            for row in range(*bounds[int(rng.integers(len(bounds)))]):
                kind = MASKED if rng.random() < masked_share else CONTEXT
                crop = torch.from_numpy(np.array(crops.pixels[row, kind]))
                pixels.append(crop.flip(-1) if rng.random() < 0.5 else crop)
                captions.append(noisy_caption(crops.attributes[row], rng))
        return PairBatch(normalise(torch.stack(pixels)), captions)


def _scene_bounds(scenes: np.ndarray) -> list[tuple[int, int]]:
    """First and last-plus-one row of each scene."""
    starts = np.flatnonzero(np.diff(scenes, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(scenes)], strict=True))
