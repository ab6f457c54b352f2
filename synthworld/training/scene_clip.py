"""Trains the scene CLIP on whole scenes with the noisy captions of their objects; no mask and no box is asked for.

Two losses on the same features. Captions are contrasted with scenes by the patches that answer them best. And windows
drawn anywhere in a scene teach its patches what the crops' CLIP says of these pixels, which alone takes minutes
instead of hours to learn shapes (measured): the scene CLIP so speaks the space of its teacher, whose text tower it
starts from.
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
from synthworld.training.crops import CROP_SIZE_PX
from synthworld.training.rendered import RenderedScenes
from synthworld.training.scene_batches import SceneBatch, caption_relations, draw_scenes, draw_windows
from synthworld.training.scene_losses import (
    pooled_scores,
    scene_contrast,
    window_features,
    window_losses,
    window_pixels,
)
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

    steps: int = 600
    scenes_a_step: int = 16
    peak_rate: float = 1.2e-3
    warmup_steps: int = 50
    # Objects measure 25 to 62 px: a window holds one of them, parts of two, or background.
    windows_a_scene: int = 8
    window_range_px: tuple[float, float] = (30.0, 72.0)
    window_contrast_weight: float = 0.3
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

    def losses(self, batch: SceneBatch, windows: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the three losses of a batch.

        windows (K, 5) of (image, x0, y0, x1, y1) pixels; targets (K, D) what the teacher says of them, normalised.
        """
        content = self.vocabulary.content(batch.captions)
        fits, unsettled = caption_relations(content, batch.owners, len(batch.images))
        with fast_cpu_arithmetic():
            dense = read_images(self.model, batch.images).dense
            texts = self._embed(self.vocabulary.encode(batch.captions))
        dense, texts = F.normalize(dense.float(), dim=1), F.normalize(texts.float(), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        patch_size = self.model.visual.patch_size[0]
        distance, contrast = window_losses(window_features(dense, windows, patch_size=patch_size), targets)
        captions = scene_contrast(pooled_scores(dense, texts), scale, fits, unsettled)
        return {"captions": captions, "windows": distance, "windows_contrast": contrast}

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
        rng = np.random.default_rng([seed, step, 5])
        batch = draw_scenes(data, recipe.scenes_a_step, rng)
        windows = draw_windows(len(batch.images), recipe.windows_a_scene, recipe.window_range_px, rng)
        parts = trainee.losses(batch, windows, _taught(teacher, batch.images, windows))
        loss = parts["windows"] + recipe.window_contrast_weight * parts["windows_contrast"]
        optimiser.step(step, loss + recipe.caption_weight * parts["captions"])
        progress.add(step, **{name: value.item() for name, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, trainee, optimiser)
    return trainee.eval()


@torch.no_grad()
def _taught(teacher: CLIP, images: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """What the teacher says of each window (K, D), normalised."""
    with fast_cpu_arithmetic():
        said = teacher.encode_image(window_pixels(images, windows, CROP_SIZE_PX))
    return F.normalize(said.float(), dim=-1)
