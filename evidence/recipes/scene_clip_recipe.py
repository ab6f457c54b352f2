"""Trains the scene CLIP on whole scenes with noisy captions, each with the point of the image that it describes.

The four patches around a point are trained to match its caption and its words; the caption is trained to select them
among all patches of its scene. No loss uses masks or boxes; a caption of a crop gives as much information about a
position. Captions of scenes without points taught colours, but not shapes (measured). The image tower starts as the
encoder of the recipe's SAM, which sees the same grid of patches and has learnt outlines; the text tower starts as the
crops' CLIP's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from segment_anything.modeling import Sam
from torch import nn

from evidence.recipes.caption_crops import normalise
from evidence.recipes.caption_recipe import WordHead, compact_model, object_contrastive_loss, pointing_loss
from evidence.recipes.caption_vocabulary import CONTENT_WORDS, CompactVocabulary
from evidence.recipes.optimiser import Recipe, fast_cpu_arithmetic, fit
from evidence.recipes.scene_shards import RenderedScenes
from evidence.recipes.scene_texts import noisy_caption
from pseudoris.synthworld.scenes import SCENE_SIZE_PX

# How far from its point an object may extend. Patches that are nearer may belong to it or to another object.
REACH_PX = 36.0
# The largest shift of a scene: half a patch in each direction, so that objects are anywhere on the grid.
SHIFT_PX = 6
MAX_SCALE = 50.0
_SAM_NAMES = {
    f"{own}.{kind}": f"{of_sam}.{kind}"
    for own, of_sam in (
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("attn.out_proj", "attn.proj"),
        ("mlp.c_fc", "mlp.lin1"),
        ("mlp.c_proj", "mlp.lin2"),
    )
    for kind in ("weight", "bias")
} | {"attn.in_proj_weight": "attn.qkv.weight", "attn.in_proj_bias": "attn.qkv.bias"}


@dataclass(frozen=True)
class SceneBatch:
    """B whole scenes with T captions, each of one object.

    Attributes:
        images: (B, 3, 192, 192) float, normalised.
        captions: (T) texts.
        owners: (T,) int64, the image of each.
        points: (T, 2) float, x and y in pixels: the middle of each caption's object.
    """

    images: torch.Tensor
    captions: list[str]
    owners: torch.Tensor
    points: torch.Tensor


def draw_scenes(data: RenderedScenes, count: int, rng: np.random.Generator) -> SceneBatch:
    """Return at most `count` distinct scenes, each with a fresh noisy caption of each object.

    Each is mirrored, and moved by a few pixels, at random.
    """
    rows = rng.choice(len(data.scenes), size=min(count, len(data.scenes)), replace=False)
    pixels: list[torch.Tensor] = []
    captions: list[str] = []
    owners: list[int] = []
    points: list[tuple[float, float]] = []
    for place, row in enumerate(rows.tolist()):
        is_mirrored = rng.random() < 0.5
        right, down = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist()
        image = data.images[row][:, ::-1] if is_mirrored else data.images[row]
        pixels.append(torch.from_numpy(_moved(image, right, down)).permute(2, 0, 1))
        for item in data.scenes[row].objects:
            x, y = item.centre_xy_px
            captions.append(noisy_caption(item.attributes, rng))
            owners.append(place)
            points.append(((SCENE_SIZE_PX - x if is_mirrored else x) + right, y + down))
    return SceneBatch(normalise(torch.stack(pixels)), captions, torch.tensor(owners), torch.tensor(points))


def _moved(image: np.ndarray, right: int, down: int) -> np.ndarray:
    """The image (H, W, 3) moved by at most SHIFT_PX pixels; its edge is repeated where nothing was."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0)), mode="edge")
    top, left = SHIFT_PX - down, SHIFT_PX - right
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def patches_at(points: torch.Tensor, *, patch_size: int, grid: int) -> torch.Tensor:
    """Return the four patches (T, 4) int64 around the corner of the grid that is nearest to each point (T, 2)."""
    corners = (points / patch_size).round().long().clamp(1, grid - 1)
    return torch.stack([(corners[:, 1] + dy) * grid + corners[:, 0] + dx for dy in (-1, 0) for dx in (-1, 0)], 1)


def patches_near(points: torch.Tensor, *, patch_size: int, grid: int) -> torch.Tensor:
    """Return which patches (T, h · w) bool may be covered by an object with its middle at each point (T, 2)."""
    middles = (torch.arange(grid) + 0.5) * patch_size
    x, y = middles.repeat(grid), middles.repeat_interleave(grid)
    return torch.hypot(x - points[:, :1], y - points[:, 1:]) < REACH_PX


def caption_relations(
    content: torch.Tensor, owners: torch.Tensor, num_images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which captions fit which images, or objects, judged from the captions alone.

    content (T, W) of 0 and 1, each caption's content words; owners (T,) their images. `fits` (T, B) bool: a caption of
    the image has all its words. `unsettled` (T, B) bool: a caption of the image has some of its words and no others ("a
    circle" there, "a red circle" here), so the pair is not a negative.
    """
    shared = content @ content.T
    count = content.sum(-1)
    member = F.one_hot(owners, num_images).to(content.dtype)
    fits = ((shared == count[:, None]).to(content.dtype) @ member) > 0
    partly = ((shared == count[None, :]).to(content.dtype) @ member) > 0
    return fits, partly & ~fits


@dataclass(frozen=True)
class SceneRecipe(Recipe):
    """The numbers of the scene CLIP's training; the defaults made the shipped weights."""

    steps: int = 9000
    peak_rate: float = 1e-3
    warmup_steps: int = 40
    scenes_a_step: int = 12
    # Weights of the other losses; that of the words is 1.
    caption_weight: float = 0.5
    pointing_weight: float = 0.5
    checkpoint_every: int = 100


class SceneClipTrainee(nn.Module):
    """A scene CLIP over a compact vocabulary."""

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        super().__init__()
        self.model = compact_model("scene_clip", CLIP, vocabulary)
        self.words = WordHead(1, self.model.visual.ln_post.normalized_shape[0], len(CONTENT_WORDS))
        self.vocabulary = vocabulary

    @torch.no_grad()
    def start_from(self, clip: CLIP, sam: Sam) -> None:
        """Takes the text tower of the crops' CLIP, over the full vocabulary, and SAM's image encoder.

        Words that this CLIP was not trained on keep random embeddings of the same size as its own words'. They add no
        meaning to a sentence, but a learner on top can distinguish them.
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

    def losses(self, batch: SceneBatch) -> dict[str, torch.Tensor]:
        """Return the losses of a batch: the captions' words, their contrast with the objects, and their pointing."""
        visual, content = self.model.visual, self.vocabulary.content(batch.captions)
        size = {"patch_size": int(visual.patch_size[0]), "grid": int(visual.grid_size[0])}
        own = patches_at(batch.points, **size)
        with fast_cpu_arithmetic():
            patches = self._read_patches(batch.images)
            of_objects = patches[batch.owners[:, None], own]
            words = self.words(of_objects.flatten(0, 1)[:, None], content.repeat_interleave(own.shape[1], dim=0))
            dense, texts = patches @ visual.proj, self._embed(self.vocabulary.encode(batch.captions))
        dense, texts = F.normalize(dense.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_SCALE)
        fits, unsettled = caption_relations(content, torch.arange(len(content)), len(content))
        each = texts @ dense[batch.owners[:, None], own].mean(1).T
        is_beside = batch.owners[:, None] == batch.owners[None, :]
        may_be_meant = ((fits | unsettled) & is_beside).float()
        is_open = may_be_meant @ patches_near(batch.points, **size).float() > 0
        in_scene = torch.einsum("td,tpd->tp", texts, dense[batch.owners])
        return {
            "words": words,
            "captions": object_contrastive_loss(each * scale, fits, unsettled),
            "pointing": pointing_loss(in_scene * scale, own, is_open),
        }

    def _read_patches(self, images: torch.Tensor) -> torch.Tensor:
        """Patches (B, h · w, C) of images (B, 3, H, W), before they are projected."""
        visual = self.model.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        pooled = visual.class_embedding.expand(len(images), 1, -1)
        hidden = torch.cat((pooled, patches), dim=1) + visual.positional_embedding
        return torch.as_tensor(visual.ln_post(visual.transformer(visual.ln_pre(hidden)))[:, 1:])

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Texts (T, D) of compact tokens (T, L), L shorter than the context: a causal tower reads nothing behind."""
        model, length = self.model, tokens.shape[1]
        hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        return torch.as_tensor(hidden[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection)


def train_scene_clip(
    vocabulary: CompactVocabulary,
    data: RenderedScenes,
    recipe: SceneRecipe,
    *,
    seed: int,
    checkpoint: Path,
    start: tuple[CLIP, Sam],
) -> SceneClipTrainee:
    """Return the trained scene CLIP; `start` are the crops' CLIP, over the full vocabulary, and SAM."""
    torch.manual_seed(seed)
    trainee = SceneClipTrainee(vocabulary).train()
    trainee.start_from(*start)

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        parts = trainee.losses(draw_scenes(data, recipe.scenes_a_step, np.random.default_rng([seed, step, 5])))
        beside = recipe.caption_weight * parts["captions"] + recipe.pointing_weight * parts["pointing"]
        return parts["words"] + beside, parts

    fit("scene clip", trainee, recipe, checkpoint, losses, warmup_steps=recipe.warmup_steps)
    return trainee.eval()


@torch.no_grad()
def start_from_sam(visual: VisionTransformer, sam: Sam) -> None:
    """Copies SAM's encoder into the first blocks of an image tower.

    SAM takes pixels normalised by other numbers, and adds a bias to its patches: both go into the patch embedding and
    the positions. Blocks after SAM's last keep their random weights. SAM's own has neither a class token nor a norm
    before its blocks.
    """
    encoder = sam.image_encoder
    gain = 255 * torch.tensor(OPENAI_DATASET_STD) / sam.pixel_std.flatten()
    offset = (255 * torch.tensor(OPENAI_DATASET_MEAN) - sam.pixel_mean.flatten()) / sam.pixel_std.flatten()
    filters = encoder.patch_embed.proj.weight
    visual.conv1.weight.copy_(filters * gain[None, :, None, None])
    bias = encoder.patch_embed.proj.bias + (filters * offset[None, :, None, None]).sum((1, 2, 3))
    visual.positional_embedding[1:].copy_(encoder.pos_embed.flatten(0, 2) + bias)
    for block, given in zip(visual.transformer.resblocks, encoder.blocks, strict=False):
        for own, of_sam in _SAM_NAMES.items():
            block.get_parameter(own).copy_(given.get_parameter(of_sam))
