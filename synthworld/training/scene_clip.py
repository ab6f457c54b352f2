"""Trains the scene CLIP on images with noisy captions: whole scenes, and close-ups of their objects to begin with.

An image's score for a caption is that of the patches that answer it best, so that a pair teaches patches what they
show; no mask and no box stands in a loss. Two things make shapes learnable in minutes, where captions of whole scenes
alone taught colours only (measured): the image tower starts as the encoder of the recipe's SAM, which has learnt
outlines; and close-ups come first, in which the middle patches, each by itself, name what they are a part of. The text
tower starts as the crops' CLIP's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from segment_anything.modeling import Sam
from torch import nn

from synthworld.training.caption_losses import WordHead
from synthworld.training.coca import compact_config
from synthworld.training.rendered import RenderedScenes
from synthworld.training.sam_start import start_from_sam
from synthworld.training.scene_batches import (
    CLOSE_UP_SIZE_PX,
    CloseUpBatch,
    SceneBatch,
    caption_relations,
    draw_close_ups,
    draw_scenes,
)
from synthworld.training.scene_losses import pooled_scores, scene_contrast
from synthworld.training.schedule import Optimiser, Progress, fast_cpu_arithmetic, restore_checkpoint, save_checkpoint
from synthworld.training.vocabulary import CONTENT_WORDS, CompactVocabulary
from workers.checkpoints.openclip import build_from_config, read_model_config
from workers.towers import read_images

MAX_SCALE = 50.0


@dataclass(frozen=True)
class SceneRecipe:
    """The numbers of the scene CLIP's training; the defaults are those of the shipped weights."""

    steps: int = 4000
    peak_rate: float = 1e-3
    warmup_steps: int = 20
    # Close-ups alone at first, which are a seventh of a scene's work; then few of them beside whole scenes.
    close_up_steps: int = 3400
    close_ups_a_step: int = 64
    scenes_a_step: int = 12
    close_ups_beside: int = 32
    caption_weight: float = 0.5
    checkpoint_every: int = 100


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
        width = model.visual.ln_post.normalized_shape[0]
        self.words = WordHead((CLOSE_UP_SIZE_PX // model.visual.patch_size[0]) ** 2, width, len(CONTENT_WORDS))
        self.patch_words = WordHead(1, width, len(CONTENT_WORDS))
        self.vocabulary = vocabulary

    @torch.no_grad()
    def start_from(self, clip: CLIP, sam: Sam) -> None:
        """Takes the text tower of the crops' CLIP, over the full vocabulary, and SAM's image encoder.

        Words that this CLIP never read keep embeddings of their own, drawn at random, as large as its own words':
        their sentences mean no more than without them, but whoever learns on top can tell them apart.
        """
        given = {name: tensor for name, tensor in clip.state_dict().items() if not name.startswith("visual.")}
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
        start_from_sam(self.model.visual, sam)

    def scene_loss(self, batch: SceneBatch) -> torch.Tensor:
        """Returns the contrast of whole scenes with captions."""
        with fast_cpu_arithmetic():
            dense = read_images(self.model, batch.images).dense
        return self._caption_loss(F.normalize(dense.float(), dim=1), batch.captions, batch.owners)

    def close_up_losses(self, batch: CloseUpBatch, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Returns the losses of close-ups: the words from all patches and from each middle one, and the contrast.

        The contrast of a close-up with captions is that of its middle patches, which are its object's.
        """
        content = self.vocabulary.content(batch.captions)
        with fast_cpu_arithmetic():
            patches = self._read_close_ups(batch.images, rng)
            middle = _middle(patches)
            dense = middle @ self.model.visual.proj
            words = self.words(patches, content)
            each = self.patch_words(middle.flatten(0, 1)[:, None], content.repeat_interleave(middle.shape[1], dim=0))
        dense = F.normalize(dense.float().transpose(1, 2)[..., None], dim=1)
        captions = self._caption_loss(dense, batch.captions, torch.arange(len(batch.captions)))
        return {"close_up_captions": captions, "words": words, "patch_words": each}

    def _caption_loss(self, dense: torch.Tensor, captions: list[str], owners: torch.Tensor) -> torch.Tensor:
        """The contrast of B images, by their patches, with T captions."""
        fits, unsettled = caption_relations(self.vocabulary.content(captions), owners, len(dense))
        with fast_cpu_arithmetic():
            texts = self._embed(self.vocabulary.encode(captions))
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        return scene_contrast(pooled_scores(dense, F.normalize(texts.float(), dim=-1)), scale, fits, unsettled)

    def _read_close_ups(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """The patches (N, h · w, C) of images smaller than a scene, at one place of the scene's grid for all."""
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
        return torch.as_tensor(visual.ln_post(visual.transformer(visual.ln_pre(hidden)))[:, 1:])

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Texts (T, D) of compact tokens (T, L), L shorter than the context: a causal tower reads nothing behind."""
        model, length = self.model, tokens.shape[1]
        hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        return torch.as_tensor(hidden[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection)


def _middle(patches: torch.Tensor) -> torch.Tensor:
    """The middle four (N, 4, C) of square close-ups' patches (N, h · h, C), h even."""
    side = math.isqrt(patches.shape[1])
    first = side // 2 - 1
    grid = patches.view(len(patches), side, side, -1)
    return grid[:, first : first + 2, first : first + 2].flatten(1, 2)


def train_scene_clip(
    vocabulary: CompactVocabulary,
    data: RenderedScenes,
    recipe: SceneRecipe,
    *,
    seed: int,
    checkpoint: Path,
    start: tuple[CLIP, Sam],
) -> SceneClipTrainee:
    """Returns the trained scene CLIP; `start` are the crops' CLIP, over the full vocabulary, and SAM."""
    torch.manual_seed(seed)
    trainee = SceneClipTrainee(vocabulary).train()
    trainee.start_from(*start)
    optimiser = Optimiser(trainee, recipe.steps, recipe.peak_rate, warmup_steps=recipe.warmup_steps)
    first = restore_checkpoint(checkpoint, trainee, optimiser)
    progress = Progress("scene clip", recipe.steps)
    for step in range(first, recipe.steps):
        parts = _step_losses(trainee, data, recipe, np.random.default_rng([seed, step, 5]), step)
        captions = parts["close_up_captions"] + parts.get("scene_captions", torch.zeros(()))
        optimiser.step(step, parts["words"] + parts["patch_words"] + recipe.caption_weight * captions)
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, trainee, optimiser)
    return trainee.eval()


def _step_losses(
    trainee: SceneClipTrainee, data: RenderedScenes, recipe: SceneRecipe, rng: np.random.Generator, step: int
) -> dict[str, torch.Tensor]:
    """The losses of one step."""
    is_early = step < recipe.close_up_steps
    num_close_ups = recipe.close_ups_a_step if is_early else recipe.close_ups_beside
    parts = trainee.close_up_losses(draw_close_ups(data, num_close_ups, rng), rng)
    if not is_early:
        parts["scene_captions"] = trainee.scene_loss(draw_scenes(data, recipe.scenes_a_step, rng))
    return parts
