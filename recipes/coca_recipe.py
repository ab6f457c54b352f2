"""Trains the tiny CoCa on (crop, noisy caption) pairs: captioning, contrast, and a word head that is dropped."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from open_clip.coca_model import CoCa
from torch import nn

from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from recipes.caption_crops import CaptionBatch, CaptionSampler
from recipes.caption_losses import TokenTap, WordHead, caption_loss, contrastive_loss
from recipes.caption_vocabulary import CONTENT_WORDS, CompactVocabulary
from recipes.optimiser import (
    Optimiser,
    Progress,
    fast_cpu_arithmetic,
    restore_checkpoint,
    save_checkpoint,
)

logger = logging.getLogger(__name__)
# open_clip draws it with 0.088; with that value, the model learns colours in minutes, but not shapes (measured).
POSITION_STD = 0.4


@dataclass(frozen=True)
class CaptionRecipe:
    """The numbers of a CoCa or CLIP training; the defaults made the shipped weights."""

    steps: int = 4000
    crops_a_step: int = 96
    peak_rate: float = 1e-3
    # Three of the captioner's four crop kinds are context crops.
    masked_share: float = 0.3
    checkpoint_every: int = 250


@dataclass(frozen=True)
class LongerRecipe:
    """The numbers of the longer CoCa training: more scenes, crops of the truth's and of SAM's masks in one phase."""

    captions: CaptionRecipe = field(default_factory=lambda: CaptionRecipe(steps=10_000))
    # The experiments' students learn from scenes from 10,000 on, which no model of the package has seen.
    num_scenes: int = 9_900
    num_proposed_scenes: int = 3_000
    proposed_share: float = 0.6


class CocaTrainee(nn.Module):
    """A CoCa over the compact vocabulary with its word head; images are float crops, captions texts."""

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        super().__init__()
        config = compact_config(read_model_config("builtin:tiny/coca.json"), len(vocabulary.ids))
        model = build_from_config(config)
        if not isinstance(model, CoCa):
            raise TypeError(f"tiny/coca.json builds {type(model).__name__}, not CoCa")
        self.model = model
        nn.init.normal_(model.visual.positional_embedding, std=POSITION_STD)
        grid = model.visual.grid_size
        width = model.visual.positional_embedding.shape[1]
        self.words = WordHead(grid[0] * grid[1], width, len(CONTENT_WORDS))
        self.tap = TokenTap(model.visual)
        self.vocabulary = vocabulary

    def losses(self, batch: CaptionBatch) -> dict[str, torch.Tensor]:
        """Return the three losses of a batch."""
        tokens = self.vocabulary.encode(batch.captions)
        content = self.vocabulary.content(batch.captions)
        with fast_cpu_arithmetic():
            out = self.model(batch.images, tokens)
            words = self.words(self.tap.tokens, content)
        cosines = out["image_features"].float() @ out["text_features"].float().T
        return {
            "caption": caption_loss(out["logits"].float(), tokens, unused_logit=self.vocabulary.unused_logit),
            "contrast": contrastive_loss(cosines, out["logit_scale"].clamp(max=50), content),
            "words": words,
        }


def compact_config(config: dict[str, object], num_tokens: int) -> dict[str, object]:
    """Return an open_clip config with another vocabulary size."""
    changed = deepcopy(config)
    for part in ("text_cfg", "multimodal_cfg"):
        section = changed.get(part)
        if isinstance(section, dict):
            section["vocab_size"] = num_tokens
    return changed


def train_coca(
    vocabulary: CompactVocabulary,
    sampler: CaptionSampler,
    recipe: CaptionRecipe,
    *,
    seed: int,
    checkpoint: Path,
    start_from: Path | None = None,
) -> CocaTrainee:
    """Return the trained captioner; `start_from` is the checkpoint of an earlier phase."""
    torch.manual_seed(seed)
    trainee = CocaTrainee(vocabulary).train()
    if start_from is not None:
        trainee.load_state_dict(torch.load(start_from, weights_only=True)["model"])
    optimiser = Optimiser(trainee, recipe.steps, recipe.peak_rate)
    first = restore_checkpoint(checkpoint, trainee, optimiser)
    progress = Progress("coca", recipe.steps)
    for step in range(first, recipe.steps):
        rng = np.random.default_rng([seed, step, 2])
        parts = trainee.losses(sampler.draw(recipe.crops_a_step, rng, masked_share=recipe.masked_share))
        optimiser.step(step, 2 * parts["caption"] + parts["contrast"] + parts["words"])
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, trainee, optimiser)
    return trainee.eval()
