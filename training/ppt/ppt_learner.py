"""PPT as a method for the trainer (the point generator between frozen encoders and decoder), also loaded from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from torch import nn

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion, evaluate, named_figures
from pseudoris.training.learning.checkpoint_folder import read_settings, require_weights, saved_config
from pseudoris.training.learning.trainer import load_trained
from pseudoris.training.ppt.frozen_encoders import FrozenEncoders
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import PptConfig
from pseudoris.training.ppt.ppt_model import LabelledFeatures, PointPrompting
from pseudoris.training.ppt.prompted_pairs import PairBatch
from pseudoris.training.ppt.pseudo_labels import to_device
from pseudoris.workers.checkpoints.weight_files import weights_digest

# What a training of PPT calls itself in its checkpoint.
LEARNER: Final = "ppt"
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

    def __init__(self, config: PptConfig, encoders: FrozenEncoders, held_out: HeldOutExpressions | None = None) -> None:
        """Draw fresh weights from the seed of the training alone, not from torch's global generator."""
        self.encoders, self.held_out = encoders, held_out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            generator = PointGenerator(config.generator, encoders.image_width, encoders.text_width)
        self.module = PointPrompting(generator, encoders.decoder, config.objective)

    def losses(self, module: nn.Module, batch: PairBatch) -> Mapping[str, torch.Tensor]:
        """Return the loss and its terms, of a batch."""
        features = self.encoders.encode(batch.image_keys, batch.images, batch.texts)
        pseudo_labels = to_device(batch.pseudo_labels, self.encoders.device)
        terms: dict[str, torch.Tensor] = module(LabelledFeatures(features, pseudo_labels))
        return terms

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        # The own module, which `module` is wrapped around: only its referent is needed, and there is no other entry
        # point for it.
        with fabric.autocast():
            return named_figures(evaluate(self, self.held_out, fabric).figures())

    def answer(self, question: ImageQuestion) -> torch.Tensor:
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
            features = self.encoders.encode([image_key] * len(some), [image] * len(some), some)
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


def settings_of(config: PptConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides weights and figures, and enough to build the model again; `data`: the inputs, as JSON."""
    return {"learner": LEARNER, "config": config.decisive(), "sha256": _digests(config), **data}


def load_ppt(path: Path, device: str = "cpu") -> PointLearner:
    """Return the learner of a training's folder, of one of its rounds, or of a checkpoint, in eval mode.

    Raises:
        ConfigError: There is none, it is another learner's, or the encoders' weights are missing or others.
    """
    file, state, settings = read_settings(path)
    if settings.get("learner") != LEARNER:
        raise ConfigError(f"{file} is not a checkpoint of PPT. Give the --out of `pseudoris train ppt`.")
    config = saved_config(file, settings, PptConfig)
    require_weights(file, "a clip", config.clip.weights, settings["sha256"]["clip"])
    require_weights(file, "a sam", config.sam.weights, settings["sha256"]["sam"])
    learner = PointLearner(config, FrozenEncoders(config, torch.device(device)))
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner


def _digests(config: PptConfig) -> dict[str, str]:
    return {"clip": weights_digest(config.clip.weights), "sam": weights_digest(config.sam.weights)}
