"""The segmenter as the trainer uses it: a module on top of frozen towers, its losses, its validation.

The losses compare each pixel (BCE), the whole outline (dice), and where patches point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from evidence.experiments.segmenter.segmenter_config import LossConfig, SegmenterConfig
from evidence.experiments.segmenter.segmenter_model import Segmenter, SegmenterInput
from pseudoris.interchange.dataset import MapDataset
from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion, held_out_figures
from pseudoris.training.learning.frozen_towers import FrozenTowers, Placement, TowerImages
from pseudoris.training.learning.training_data import loss_weights, weighted_mean
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


# Expressions of one image that are answered at once; an image with more takes several passes.
_TEXTS_A_PASS = 32


class SegmenterLearner:
    """A segmenter on top of its towers.

    Images that it has seen are kept, pixels and features, while `towers.cache_bytes` of features have room: nothing of
    an image changes from epoch to epoch.

    Attributes:
        towers: Frozen.
        module: What is trained.
        held_out: Expressions for each validation; None for none.
    """

    def __init__(
        self, config: SegmenterConfig, towers: FrozenTowers, held_out: HeldOutExpressions | None = None
    ) -> None:
        """Draw fresh weights from the seed of the training alone, not from torch's global generator."""
        self.towers = towers
        self.held_out = held_out
        self._config = config
        self._pixels: dict[str, torch.Tensor] = {}
        # In float16, to which the towers round.
        self._features: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._left_bytes = config.towers.cache_bytes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            self.module = Segmenter(config.model, towers.widths)

    def holds(self, image_key: str) -> bool:
        """Return whether an image was seen and its pixels and features were kept."""
        return image_key in self._pixels

    def losses(self, module: nn.Module, batch: TargetBatch) -> Mapping[str, torch.Tensor]:
        """Return the loss and its parts, of a batch."""
        pixels = torch.stack([self._held(*each) for each in zip(batch.image_keys, batch.pixels, strict=True)])
        given = self._input(batch.image_keys, pixels, batch.texts, batch.owners)
        logits, rough = module(given)
        device = logits.device
        return mask_losses(logits, rough, batch.masks.to(device), self._config.loss, batch.weights.to(device))

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        return held_out_figures(
            lambda question: self.logits(question.image_key, question.image, question.texts, module) > 0,
            self.held_out,
            fabric,
        )

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool."""
        self.module.eval()
        return self.logits(question.image_key, question.image, question.texts) > 0

    @torch.no_grad()
    def logits(
        self, image_key: str, image: torch.Tensor, texts: Sequence[str], module: nn.Module | None = None
    ) -> torch.Tensor:
        """Return the logits of masks on the image's pixels, (T, H, W) float32 on the CPU; above 0 is inside.

        Args:
            image_key: By which features are kept: one key is one image.
            image: (3, H, W) uint8, upright RGB.
            texts: The expressions.
            module: In place of the own one, as the trainer wrapped it.
        """
        size = self.towers.image_format.size
        placement = Placement.of((image.shape[1], image.shape[2]), size)
        pixels = placement.image(image, self.towers.image_format.mean)[None]
        parts = []
        for first in range(0, len(texts), _TEXTS_A_PASS):
            some = list(texts[first : first + _TEXTS_A_PASS])
            given = self._input([image_key], pixels, some, torch.zeros(len(some), dtype=torch.int64))
            logits, _ = (self.module if module is None else module)(given)
            parts.append(on_image(logits.float().cpu(), placement))
        return torch.cat(parts)

    def _input(
        self, image_keys: Sequence[str], pixels: torch.Tensor, texts: Sequence[str], owners: torch.Tensor
    ) -> SegmenterInput:
        device = self.towers.device
        images = self.encoded(image_keys, pixels)
        normalised = self.towers.normalised(pixels.to(device))
        return SegmenterInput(normalised, images, self.towers.encode_texts(texts), owners.to(device))

    def _held(self, image_key: str, pixels: torch.Tensor | None) -> torch.Tensor:
        """Return an image's pixels, and keep them where its features are kept."""
        if pixels is None:
            return self._pixels[image_key]
        if self._left_bytes > 0:
            self._pixels[image_key] = pixels
        return pixels

    def encoded(self, image_keys: Sequence[str], pixels: torch.Tensor) -> TowerImages:
        """Return the towers' features of images (B, 3, S, S) uint8, each once."""
        found = {key: self._features[key] for key in image_keys if key in self._features}
        missing = [at for at, key in enumerate(image_keys) if key not in found]
        if missing:
            seen = self.towers.read_images(pixels[missing])
            for at, stages, dense in zip(missing, seen.stages.half(), seen.dense.half(), strict=True):
                # Copies: a row of a batch would keep the whole batch in memory.
                own = found[image_keys[at]] = stages.cpu().clone(), dense.cpu().clone()
                if self._left_bytes > 0:
                    self._left_bytes -= sum(each.nbytes for each in own)
                    self._features[image_keys[at]] = own
        stages, dense = (torch.stack(each) for each in zip(*(found[key] for key in image_keys), strict=True))
        return TowerImages(stages.to(self.towers.device).float(), dense.to(self.towers.device).float())


def on_image(logits: torch.Tensor, placement: Placement) -> torch.Tensor:
    """Return logits (T, m, m) of a square on the pixels of its image, (T, H, W)."""
    square = _scaled(logits, (placement.side, placement.side))
    (height, width), top, left = placement.inner, placement.top, placement.left
    inner = square[:, top : top + height, left : left + width]
    return inner if placement.inner == placement.size else _scaled(inner, placement.size)


def _scaled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def mask_losses(
    logits: torch.Tensor,
    rough: torch.Tensor,
    targets: torch.Tensor,
    config: LossConfig,
    weights: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return `loss` and its parts, scalars.

    Args:
        logits: (T, m, m).
        rough: (T, rounds, h, w), logits on the grid of patches.
        targets: (T, m, m) float32 in [0, 1], shares of each pixel.
        config: Weights of the parts.
        weights: (T,), of each expression in the means; all alike by default.
    """
    logits, rough = logits.float(), rough.float()
    bce = weighted_mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), weights)
    dice = dice_loss(logits, targets, weights)
    where = pointing_loss(rough, targets, weights)
    loss = config.bce * bce + config.dice * dice + config.pointing * where
    return {"loss": loss, "bce": bce, "dice": dice, "pointing": where}


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over masks of 1 - dice, the dice of probabilities with squares below (V-Net, Milletari 2016).

    Args:
        logits: (T, H, W).
        targets: (T, H, W) in [0, 1].
        weights: (T,), of the mean.
    """
    probabilities = logits.sigmoid().flatten(1)
    wanted = targets.flatten(1)
    overlap = (probabilities * wanted).sum(1)
    # One pixel more on both sides: a mask that is empty at this size, as it should be, loses nothing.
    dice = (2 * overlap + 1) / (probabilities.square().sum(1) + wanted.square().sum(1) + 1)
    return weighted_mean(1 - dice, weights)


def pointing_loss(rough: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return how far a softmax over all patches is from the target's share of each, a Kullback-Leibler divergence.

    Background is most of an image: a mean over patches would hardly show which object is the target. Here patches
    compete, and the gradient is about the object alone.

    Args:
        rough: (T, rounds, h, w) logits.
        targets: (T, m, m) in [0, 1]; one without a pixel counts nothing.
        weights: (T,), of the mean.
    """
    share = F.adaptive_avg_pool2d(targets[:, None], (rough.shape[-2], rough.shape[-1])).flatten(2)
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-6)
    divergence = F.kl_div(rough.flatten(2).log_softmax(-1), share.expand(-1, rough.shape[1], -1), reduction="none")
    return weighted_mean(divergence.sum(-1), weights)
