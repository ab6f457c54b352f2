"""The student as the trainer knows it: its module on top of frozen towers, its losses, its validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning_fabric import Fabric
from torch import nn

from training.learning.asking import Question, Questions, ask, named_figures
from training.learning.towers import FrozenTowers
from training.student.config import StudentConfig
from training.student.losses import mask_losses
from training.student.model import RisStudent, StudentInput
from training.student.samples import Batch
from training.student.squares import Placement

# Expressions of one image that are answered at once; an image with more takes several passes.
_TEXTS_A_PASS = 32


class StudentLearner:
    """A student over its towers.

    Attributes:
        towers: Frozen.
        module: What is trained.
        held_out: Asked at each validation; None for none.
    """

    def __init__(self, config: StudentConfig, towers: FrozenTowers, held_out: Questions | None = None) -> None:
        """Draw fresh weights by the seed of the training, whatever torch's generator has done so far."""
        self.towers = towers
        self.held_out = held_out
        self._config = config
        self._pixels: dict[str, torch.Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            self.module = RisStudent(config.model, towers.widths)

    def holds(self, image_key: str) -> bool:
        """Return whether an image was seen and its pixels and features were kept."""
        return image_key in self._pixels

    def losses(self, module: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the loss and its parts, of a batch."""
        pixels = torch.stack([self._held(*each) for each in zip(batch.image_keys, batch.pixels, strict=True)])
        given = self._input(batch.image_keys, pixels, batch.texts, batch.owners)
        logits, rough = module(given)
        return mask_losses(logits, rough, batch.masks.to(logits.device), self._config.loss)

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        return named_figures(ask(_Answering(self, module), self.held_out, fabric).figures())

    def answer(self, question: Question) -> torch.Tensor:
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
            parts.append(placement.back(logits.float().cpu()))
        return torch.cat(parts)

    def _input(
        self, image_keys: Sequence[str], pixels: torch.Tensor, texts: Sequence[str], owners: torch.Tensor
    ) -> StudentInput:
        device = self.towers.device
        images = self.towers.see_images(image_keys, pixels)
        normalised = self.towers.normalised(pixels.to(device))
        return StudentInput(normalised, images, self.towers.see_texts(texts), owners.to(device))

    def _held(self, image_key: str, pixels: torch.Tensor | None) -> torch.Tensor:
        """Return an image's pixels, and keep them where the towers keep its features."""
        if pixels is None:
            return self._pixels[image_key]
        if self.towers.has_room:
            self._pixels[image_key] = pixels
        return pixels


class _Answering:
    """Answers with a module that the trainer has wrapped."""

    def __init__(self, learner: StudentLearner, module: nn.Module) -> None:
        self._learner, self._module = learner, module

    def answer(self, question: Question) -> torch.Tensor:
        return self._learner.logits(question.image_key, question.image, question.texts, self._module) > 0
