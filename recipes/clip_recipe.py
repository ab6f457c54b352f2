"""Trains the tiny CLIP on (crop, noisy caption) pairs; its image tower starts from the captioner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from torch import nn

from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from recipes.caption_crops import CaptionBatch, CaptionSampler
from recipes.caption_losses import TokenTap, WordHead, contrastive_loss
from recipes.caption_vocabulary import CONTENT_WORDS, CompactVocabulary
from recipes.coca_recipe import CaptionRecipe, compact_config
from recipes.optimiser import (
    Optimiser,
    Progress,
    fast_cpu_arithmetic,
    restore_checkpoint,
    save_checkpoint,
)

# The filter divides cosines by each other: below this floor, and above all below zero, a ratio means nothing.
MIN_COSINE = 0.05
MAX_SCALE = 25.0


class ClipTrainee(nn.Module):
    """A CLIP over the compact vocabulary with its word head."""

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        super().__init__()
        model = build_from_config(compact_config(read_model_config("builtin:tiny/clip.json"), len(vocabulary.ids)))
        if not isinstance(model, CLIP):
            raise TypeError(f"tiny/clip.json builds {type(model).__name__}, not CLIP")
        self.model = model
        grid = model.visual.grid_size
        width = model.visual.positional_embedding.shape[1]
        self.words = WordHead(grid[0] * grid[1], width, len(CONTENT_WORDS))
        self.tap = TokenTap(model.visual)
        self.vocabulary = vocabulary

    def warm_start(self, coca_checkpoint: Path) -> None:
        """Copies the captioner's image trunk and word head; pooling and projection stay fresh."""
        state = torch.load(coca_checkpoint, weights_only=True)["model"]
        own = self.model.visual.state_dict()
        trunk = {name: state[f"model.visual.{name}"] for name in own if _is_trunk(name)}
        self.model.visual.load_state_dict(trunk, strict=False)
        self.words.load_state_dict({k: state[f"words.{k}"] for k in self.words.state_dict()})

    def losses(self, batch: CaptionBatch) -> dict[str, torch.Tensor]:
        """Return the contrast, the hinge on low cosines, and the word head's loss."""
        tokens = self.vocabulary.encode(batch.captions)
        content = self.vocabulary.content(batch.captions)
        with fast_cpu_arithmetic():
            image = self.model.encode_image(batch.images, normalize=True)
            text = self.model.encode_text(tokens, normalize=True)
            words = self.words(self.tap.tokens, content)
        cosines = image.float() @ text.float().T
        return {
            "contrast": contrastive_loss(cosines, self.model.logit_scale.exp().clamp(max=MAX_SCALE), content),
            "hinge": (MIN_COSINE - cosines).clamp(min=0).mean(),
            "words": words,
        }


def _is_trunk(name: str) -> bool:
    """Whether a tensor of the image tower comes before pooling."""
    return name.startswith(("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer"))


def train_clip(
    vocabulary: CompactVocabulary,
    sampler: CaptionSampler,
    recipe: CaptionRecipe,
    *,
    seed: int,
    checkpoint: Path,
    warm_start: Path | None = None,
    start_from: Path | None = None,
) -> ClipTrainee:
    """Return the trained scorer; `warm_start` is a captioner's checkpoint, `start_from` an earlier phase's."""
    torch.manual_seed(seed)
    trainee = ClipTrainee(vocabulary).train()
    if warm_start is not None:
        trainee.warm_start(warm_start)
    if start_from is not None:
        trainee.load_state_dict(torch.load(start_from, weights_only=True)["model"])
    optimiser = Optimiser(trainee, recipe.steps, recipe.peak_rate)
    first = restore_checkpoint(checkpoint, trainee, optimiser)
    progress = Progress("clip", recipe.steps)
    for step in range(first, recipe.steps):
        rng = np.random.default_rng([seed, step, 3])
        parts = trainee.losses(sampler.draw(recipe.crops_a_step, rng, masked_share=recipe.masked_share))
        optimiser.step(step, parts["contrast"] + 5 * parts["hinge"] + parts["words"])
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, trainee, optimiser)
    return trainee.eval()
