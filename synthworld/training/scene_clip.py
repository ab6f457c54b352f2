"""Trains the scene CLIP on images with noisy captions: whole scenes, and close-ups of their objects to begin with.

An image's score for a caption is that of the patches that answer it best, so that a pair teaches patches what they
show; no mask and no box stands in a loss. Close-ups are also given to the crops' CLIP, enlarged as it knows them, and
what it says is taught: alone, captions of whole scenes teach colours in minutes and shapes in hours (measured). So
the scene CLIP speaks the space of its teacher, whose text tower it starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import nn

from synthworld.training.coca import compact_config
from synthworld.training.rendered import RenderedScenes
from synthworld.training.scene_batches import (
    CloseUpBatch,
    SceneBatch,
    caption_relations,
    draw_close_ups,
    draw_scenes,
)
from synthworld.training.scene_losses import pooled_scores, scene_contrast, taught_losses
from synthworld.training.schedule import Optimiser, Progress, fast_cpu_arithmetic, restore_checkpoint, save_checkpoint
from synthworld.training.vit_start import start_attention, whiten_patches
from synthworld.training.vocabulary import CompactVocabulary
from workers.checkpoints.openclip import build_from_config, read_model_config
from workers.towers import read_images

MAX_SCALE = 50.0
_WHITENING_SCENES = 400


@dataclass(frozen=True)
class SceneRecipe:
    """The numbers of the scene CLIP's training; the defaults are those of the shipped weights."""

    steps: int = 700
    peak_rate: float = 1.2e-3
    warmup_steps: int = 50
    # Close-ups alone at first, which are a seventh of a scene's work; then few of them beside whole scenes.
    close_up_steps: int = 350
    close_ups_a_step: int = 96
    scenes_a_step: int = 12
    close_ups_beside: int = 32
    taught_contrast_weight: float = 0.3
    caption_weight: float = 0.5
    checkpoint_every: int = 50


class SceneClipTrainee(nn.Module):
    """A scene CLIP over a compact vocabulary."""

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        super().__init__()
        config = compact_config(read_model_config("builtin:tiny/scene_clip.json"), len(vocabulary.ids))
        model = build_from_config(config)
        if not isinstance(model, CLIP):
            raise TypeError(f"tiny/scene_clip.json builds {type(model).__name__}, not CLIP")
        self.model = model
        self.vocabulary = vocabulary

    @torch.no_grad()
    def start_from(self, teacher: CLIP, images: torch.Tensor) -> None:
        """Takes the teacher's text tower, and starts the image tower from images (B, 3, 192, 192), normalised.

        Words that the teacher never read keep embeddings of their own, drawn at random, as large as its own words':
        their sentences mean no more than without them, but whoever learns on top can tell them apart.
        """
        given = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith("visual.")}
        own = self.model.state_dict()
        rows = given.pop("token_embedding.weight")[torch.tensor(self.vocabulary.ids)]
        is_known = rows.abs().sum(-1) > 0
        drawn = own["token_embedding.weight"]
        drawn *= rows[is_known].std() / drawn.std()
        drawn[is_known] = rows[is_known]
        positions = given.pop("positional_embedding")
        own["positional_embedding"][: len(positions)] = positions
        for name, tensor in given.items():
            own[name].copy_(tensor)
        start_attention(self.model.visual)
        whiten_patches(self.model.visual, images)

    def scene_loss(self, batch: SceneBatch) -> torch.Tensor:
        """Returns the contrast of whole scenes with captions."""
        with fast_cpu_arithmetic():
            dense = read_images(self.model, batch.images).dense
        return self._caption_loss(F.normalize(dense.float(), dim=1), batch.captions, batch.owners)

    def close_up_losses(
        self, batch: CloseUpBatch, targets: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Returns the losses of close-ups; targets (N, D) are what the teacher says of their crops, normalised."""
        with fast_cpu_arithmetic():
            dense = self._read_close_ups(batch.images, rng)
        dense = F.normalize(dense.float(), dim=1)
        distance, contrast = taught_losses(dense, targets)
        captions = self._caption_loss(dense, batch.captions, torch.arange(len(batch.captions)))
        return {"taught": distance, "taught_contrast": contrast, "close_up_captions": captions}

    def _caption_loss(self, dense: torch.Tensor, captions: list[str], owners: torch.Tensor) -> torch.Tensor:
        """The contrast of B images, by their patches, with T captions."""
        fits, unsettled = caption_relations(self.vocabulary.content(captions), owners, len(dense))
        with fast_cpu_arithmetic():
            texts = self._embed(self.vocabulary.encode(captions))
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        return scene_contrast(pooled_scores(dense, F.normalize(texts.float(), dim=-1)), scale, fits, unsettled)

    def _read_close_ups(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """The dense map (N, D, h, w) of images smaller than a scene, at one place of the scene's grid for all."""
        visual = self.model.visual
        patches = visual.conv1(images)
        rows, columns = patches.shape[2:]
        grid = visual.positional_embedding[1:].unflatten(0, visual.grid_size)
        top, left = (
            int(rng.integers(size - side + 1)) for size, side in zip(grid.shape, (rows, columns), strict=False)
        )
        here = grid[top : top + rows, left : left + columns].flatten(0, 1)
        pooled = (visual.class_embedding + visual.positional_embedding[0]).expand(len(images), 1, -1)
        hidden = torch.cat((pooled, patches.flatten(2).transpose(1, 2) + here), dim=1)
        hidden = visual.ln_post(visual.transformer(visual.ln_pre(hidden)))[:, 1:]
        return torch.as_tensor((hidden @ visual.proj).transpose(1, 2).unflatten(2, (rows, columns)))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Texts (T, D) of compact tokens (T, L), L shorter than the context: a causal tower reads nothing behind."""
        model, length = self.model, tokens.shape[1]
        hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        return torch.as_tensor(hidden[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection)


def train_scene_clip(
    vocabulary: CompactVocabulary,
    data: RenderedScenes,
    teacher: CLIP,
    recipe: SceneRecipe,
    *,
    seed: int,
    checkpoint: Path,
) -> SceneClipTrainee:
    """Returns the trained scene CLIP; `teacher` is the crops' CLIP over the full vocabulary."""
    torch.manual_seed(seed)
    trainee = SceneClipTrainee(vocabulary).train()
    trainee.start_from(teacher, draw_scenes(data, _WHITENING_SCENES, np.random.default_rng([seed, 5])).images)
    optimiser = Optimiser(trainee, recipe.steps, recipe.peak_rate, warmup_steps=recipe.warmup_steps)
    first = restore_checkpoint(checkpoint, trainee, optimiser)
    progress = Progress("scene clip", recipe.steps)
    for step in range(first, recipe.steps):
        parts = _step_losses(trainee, data, teacher, recipe, np.random.default_rng([seed, step, 5]), step)
        optimiser.step(step, _total(parts, recipe))
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, trainee, optimiser)
    return trainee.eval()


def _step_losses(
    trainee: SceneClipTrainee,
    data: RenderedScenes,
    teacher: CLIP,
    recipe: SceneRecipe,
    rng: np.random.Generator,
    step: int,
) -> dict[str, torch.Tensor]:
    """The losses of one step."""
    is_early = step < recipe.close_up_steps
    close_ups = draw_close_ups(data, recipe.close_ups_a_step if is_early else recipe.close_ups_beside, rng)
    with torch.no_grad(), fast_cpu_arithmetic():
        targets = F.normalize(teacher.encode_image(close_ups.crops).float(), dim=-1)
    parts = trainee.close_up_losses(close_ups, targets, rng)
    if not is_early:
        parts["scene_captions"] = trainee.scene_loss(draw_scenes(data, recipe.scenes_a_step, rng))
    return parts


def _total(parts: dict[str, torch.Tensor], recipe: SceneRecipe) -> torch.Tensor:
    """The weighted sum of a step's losses."""
    captions = parts["close_up_captions"] + parts.get("scene_captions", torch.zeros(()))
    return parts["taught"] + recipe.taught_contrast_weight * parts["taught_contrast"] + recipe.caption_weight * captions
