"""PPT as the trainer knows it: the point generator between frozen encoders and a frozen decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import nn

from training.learning.asking import Question, Questions, ask, named_figures
from training.ppt.batches import PairBatch
from training.ppt.encoding import FrozenEncoders
from training.ppt.model import LabelledFeatures, PointPrompting
from training.ppt.point_generator import PointGenerator
from training.ppt.pseudo_labels import to_device
from training.ppt.settings import PptConfig

# Expressions of one image that are answered at once; an image with more takes several passes.
_TEXTS_A_PASS = 32


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """The most confident query of each of T expressions of one image, on the CPU.

    Attributes:
        logits: (T, H, W) float32, above 0 is inside; on the image's pixels.
        points_xy: (T, M, 2) float32 in [0, 1] of the image.
        is_positive: (T, M) bool.
        confidences: (T,) float32 in [0, 1].
    """

    logits: torch.Tensor
    points_xy: torch.Tensor
    is_positive: torch.Tensor
    confidences: torch.Tensor


class PointLearner:
    """A point generator over its encoders.

    Attributes:
        encoders: Frozen.
        module: What is trained.
        held_out: Asked at each validation; None for none.
    """

    def __init__(self, config: PptConfig, encoders: FrozenEncoders, held_out: Questions | None = None) -> None:
        """Draw fresh weights by the seed of the training, whatever torch's generator has done so far."""
        self.encoders, self.held_out = encoders, held_out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            generator = PointGenerator(config.generator, encoders.image_width, encoders.text_width)
        self.module = PointPrompting(generator, encoders.decoder, config.objective)

    def losses(self, module: nn.Module, batch: PairBatch) -> Mapping[str, torch.Tensor]:
        """Return the loss and its terms, of a batch."""
        features = self.encoders.see(batch.image_keys, batch.images, batch.texts)
        wanted = to_device(batch.wanted, self.encoders.device)
        terms: dict[str, torch.Tensor] = module(LabelledFeatures(features, wanted))
        return terms

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        # The own module, which `module` is wrapped around: asked for its referent alone, and that has no other door.
        with fabric.autocast():
            return named_figures(ask(self, self.held_out, fabric).figures())

    def answer(self, question: Question) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool."""
        self.module.eval()
        return self.predict(question.image_key, question.image, question.texts).logits > 0

    @torch.no_grad()
    def predict(self, image_key: str, image: torch.Tensor, texts: Sequence[str]) -> PointAnswer:
        """Return how the most confident query answers each expression of an image.

        Args:
            image_key: One key is one image.
            image: (3, H, W) uint8, upright RGB.
            texts: The expressions.
        """
        size = (int(image.shape[1]), int(image.shape[2]))
        parts = []
        for first in range(0, len(texts), _TEXTS_A_PASS):
            some = list(texts[first : first + _TEXTS_A_PASS])
            features = self.encoders.see([image_key] * len(some), [image] * len(some), some)
            found = self.module.referent(features)
            width, height = (int(side) for side in features.sam.input_sizes[0].tolist())
            logits = self.encoders.on_image(found.mask_logits.float(), size, (height, width)).cpu()
            prompts = found.prompts
            is_positive = prompts.label_logits.cpu() > 0
            confidences = prompts.confidence_logits.sigmoid().cpu()
            parts.append(PointAnswer(logits, prompts.points_xy.cpu(), is_positive, confidences))
        return PointAnswer(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("logits", "points_xy", "is_positive", "confidences")
            )
        )
