"""A run's masks and expressions as the segmenter takes them: image in its square, mask at the size of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from pseudoris.training.dataset import MapDataset
from pseudoris.training.learning.frozen_towers import Placement
from pseudoris.training.learning.training_data import loss_weights
from pseudoris.workers.crops.crops import CropFormat


@dataclass(frozen=True, slots=True)
class Target:
    """A mask and an expression of it.

    Attributes:
        image_key: Identifies its image among those of all runs.
        pixels: (3, S, S) uint8; None where the towers hold its features and the learner its pixels.
        mask: (m, m) float32 in [0, 1], shares of each pixel.
        text: The expression.
        weight: How much its loss counts.
    """

    image_key: str
    pixels: torch.Tensor | None
    mask: torch.Tensor
    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Masks of some images, each image once.

    Attributes:
        image_keys: (U).
        pixels: (U) of (3, S, S) uint8, or None where they are held.
        owners: (T,) int64, the image of each mask.
        masks: (T, m, m) float32.
        texts: (T).
        weights: (T,) float32.
    """

    image_keys: list[str]
    pixels: list[torch.Tensor | None]
    owners: torch.Tensor
    masks: torch.Tensor
    texts: list[str]
    weights: torch.Tensor

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.texts)


def collate(targets: Sequence[Target]) -> TargetBatch:
    """Return targets as a batch."""
    places: dict[str, int] = {}
    pixels: list[torch.Tensor | None] = []
    for each in targets:
        if each.image_key not in places:
            places[each.image_key] = len(places)
            pixels.append(each.pixels)
    return TargetBatch(
        image_keys=list(places),
        pixels=pixels,
        owners=torch.tensor([places[each.image_key] for each in targets]),
        masks=torch.stack([each.mask for each in targets]),
        texts=[each.text for each in targets],
        weights=torch.tensor([each.weight for each in targets], dtype=torch.float32),
    )


class TargetDataset(Dataset[Target]):
    """The masks of runs, and of a human's import, an expression each; images only where they are not held yet.

    It wraps two datasets of the same order: masks and texts, which every epoch reads, and images.
    """

    def __init__(
        self,
        targets: MapDataset,
        images: MapDataset,
        *,
        image_format: CropFormat,
        mask_size: int,
        is_held: Callable[[str], bool] = lambda image_key: False,
    ) -> None:
        """Take two datasets of the same items.

        Args:
            targets: With the parts `mask` and `text`; with `scores`, weights multiply losses.
            images: With the part `image`.
            image_format: Image format of the towers.
            mask_size: Side of the masks.
            is_held: Whether an image need not be read any more.
        """
        self._targets, self._images = targets, images
        self._format, self._mask_size, self._is_held = image_format, mask_size, is_held
        self._keys = images.image_digests()

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._targets)

    def set_epoch(self, epoch: int) -> None:
        """Choose the expressions, and which human masks repeat."""
        self._targets.set_epoch(epoch)
        self._images.set_epoch(epoch)
        self._keys = self._images.image_digests()

    def image_keys(self) -> list[str]:
        """Return the image of every item of the epoch."""
        return self._keys

    def __getitem__(self, index: int) -> Target:
        """Return an item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Target]:
        """Return the items of a batch; an image is decoded at most once."""
        drawn = self._targets.__getitems__(indices)
        seen: dict[str, torch.Tensor | None] = {}
        keys = [self._keys[index] for index in indices]
        for index, key in zip(indices, keys, strict=True):
            if key not in seen:
                seen[key] = self._pixels(index, key)
        return [self._target(sample, key, seen[key]) for sample, key in zip(drawn, keys, strict=True)]

    def _pixels(self, index: int, key: str) -> torch.Tensor | None:
        if self._is_held(key):
            return None
        image: torch.Tensor = self._images[index]["image"]
        placement = Placement.of((image.shape[1], image.shape[2]), self._format.size)
        return placement.image(image, self._format.mean)

    def _target(self, sample: Any, key: str, pixels: torch.Tensor | None) -> Target:
        mask: torch.Tensor = sample["mask"]
        placement = Placement.of((mask.shape[0], mask.shape[1]), self._format.size)
        (text,), (weight,) = sample["expressions"], loss_weights(sample)
        return Target(key, pixels, placement.mask(mask, self._mask_size), text, weight)
