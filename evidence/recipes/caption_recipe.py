"""Trains the tiny CoCa and CLIP on (crop, noisy caption) pairs, each with a word head that is dropped.

CLIP's image tower starts from the captioner's. `training_plan` calls it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import nn

from evidence.recipes.caption_crops import CaptionBatch, CaptionSampler
from evidence.recipes.caption_styles import Say
from evidence.recipes.caption_vocabulary import CompactVocabulary
from evidence.recipes.optimiser import Recipe, fast_cpu_arithmetic, fit, load_module
from evidence.recipes.scene_texts import noisy_caption
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.checkpoints.tensor_files import TOKEN_IDS


def text_relations(content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which pairs of captions are equal, and which ones do not contradict each other.

    content (B, W) of 0 and 1, the content words of each caption. `equal` (B, B) bool: the same words. `unsettled` (B,
    B) bool: one's words are a proper subset of the other's ("a circle", "a red circle"): the texts do not show whether
    the longer one also fits the other's crop, so such pairs are not negatives.
    """
    shared = content @ content.T
    count = content.sum(-1)
    equal = (shared == count[:, None]) & (shared == count[None, :])
    nested = (shared == count[:, None]) | (shared == count[None, :])
    return equal, nested & ~equal


def contrastive_loss(cosines: torch.Tensor, scale: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of image × text cosines (B, B); equal captions are all positives."""
    equal, unsettled = text_relations(content)
    logits = (cosines * scale).masked_fill(unsettled, float("-inf"))
    targets = equal.float() / equal.float().sum(-1, keepdim=True)
    rows = _soft_cross_entropy(logits, targets)
    return 0.5 * (rows + _soft_cross_entropy(logits.T, targets))


def _soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against a distribution; pairs at minus infinity have no target mass."""
    log_probabilities = logits.log_softmax(-1)
    return -torch.where(targets > 0, targets * log_probabilities, torch.zeros_like(targets)).sum(-1).mean()


def caption_loss(logits: torch.Tensor, tokens: torch.Tensor, *, unused_logit: float) -> torch.Tensor:
    """Next-token cross-entropy over the full vocabulary, the unused tokens' zero logits gathered in one constant.

    logits (B, L − 1, V) after tokens 0 … L − 2; tokens (B, L) compact; padding (0) is not predicted. A hinge keeps used
    tokens above the unused ones' zero, so that the k most likely tokens are never among 49,360 tied ones.
    """
    constant = torch.full_like(logits[..., :1], unused_logit)
    targets = tokens[:, 1:]
    whole = torch.cat((logits, constant), -1).flatten(0, 1)
    loss = F.cross_entropy(whole, targets.flatten(), ignore_index=0)
    spoken = (targets > 0)[..., None]
    hinge = ((0.5 - logits[..., 1:]).clamp(min=0).square() * spoken).sum() / spoken.sum()
    return loss + 0.1 * hinge


class WordHead(nn.Module):
    """Predicts the caption's content words from the flattened image tokens; dropped after the training.

    Without it, open_clip's vision tower learns colours in minutes and hardly learns shapes (measured). Its targets are
    only the words of the noisy caption: a word that the caption leaves out is not a target.
    """

    def __init__(self, num_tokens: int, width: int, num_words: int) -> None:
        """One linear map from all tokens at once: position and shape are then one matrix away."""
        super().__init__()
        self.norm = nn.LayerNorm(num_tokens * width)
        self.head = nn.Linear(num_tokens * width, num_words)

    def forward(self, tokens: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of a caption's words; tokens (B, T, D), content (B, W) of 0 and 1."""
        logits: torch.Tensor = self.head(self.norm(tokens.flatten(1)))
        log_probabilities = logits.float().log_softmax(-1)
        return -((log_probabilities * content).sum(-1) / content.sum(-1).clamp(min=1)).mean()


class TokenTap:
    """Keeps the last output of a vision tower's transformer: image tokens (B, T, D) without the class token."""

    def __init__(self, visual: nn.Module) -> None:
        """Hooks in."""
        self.tokens = torch.empty(0)
        self._handle = visual.get_submodule("transformer").register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.tokens = output[:, 1:]

    def remove(self) -> None:
        """Unhooks."""
        self._handle.remove()


def object_contrastive_loss(scores: torch.Tensor, fits: torch.Tensor, unsettled: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy of texts × objects scores (T, B), scaled: all that fits is positive.

    `fits` and `unsettled` are defined in `caption_relations`; a row's loss is the mean over its positives.
    """
    logits = scores.masked_fill(unsettled, float("-inf"))
    return 0.5 * (_cross_entropy(logits, fits) + _cross_entropy(logits.T, fits.T))


def pointing_loss(scores: torch.Tensor, own: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
    """Return how far each caption's scores of its scene's patches are from pointing at its own object.

    The negative log of the softmax share of the caption's own patches, as a mean over captions.

    Args:
        scores: (T, P), scaled cosines of each caption with the P patches of its scene.
        own: (T, O) int64, the patches of the caption's object.
        is_open: (T, P) bool, patches that are left out: they may be the object's too, or of one that the caption fits
            as well. Those of `own` count all the same.
    """
    is_own = torch.zeros_like(is_open).scatter_(1, own, True)
    own_scores = scores.masked_fill(~is_own, float("-inf")).logsumexp(1)
    all_scores = scores.masked_fill(is_open & ~is_own, float("-inf")).logsumexp(1)
    return (all_scores - own_scores).mean()


def _cross_entropy(logits: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    kept = torch.where(fits, logits.log_softmax(-1), torch.zeros_like(logits))
    return -(kept.sum(-1) / fits.sum(-1).clamp(min=1)).mean()


ModelT = TypeVar("ModelT", bound=nn.Module)
TraineeT = TypeVar("TraineeT", bound="CaptionTrainee")
# open_clip draws it with 0.088; with that value, the model learns colours in minutes, but not shapes (measured).
POSITION_STD = 0.4
# The filter divides cosines by each other: below this floor, and above all below zero, a ratio means nothing.
MIN_COSINE = 0.05
MAX_SCALE = 25.0
# Of an image tower, what comes before pooling.
TRUNK = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer")


@dataclass(frozen=True)
class CaptionRecipe(Recipe):
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
    say: Say = noisy_caption
    seed: int = 0
    num_proposed_scenes: int = 3_000
    proposed_share: float = 0.6


def compact_model(name: str, kind: type[ModelT], vocabulary: CompactVocabulary) -> ModelT:
    """Return the model of `builtin:tiny/<name>.json` over a vocabulary; weights from torch's global generator."""
    config = deepcopy(read_model_config(f"builtin:tiny/{name}.json"))
    for part in ("text_cfg", "multimodal_cfg"):
        section = config.get(part)
        if isinstance(section, dict):
            section["vocab_size"] = len(vocabulary.ids)
    model = build_from_config(config)
    if not isinstance(model, kind):
        raise TypeError(f"tiny/{name}.json builds {type(model).__name__}, not {kind.__name__}")
    return model


class CaptionTrainee(nn.Module):
    """A model over the compact vocabulary with its word head; images are float crops, captions texts."""

    # Of the loss; the last number of a step's seed.
    weights: ClassVar[dict[str, float]]
    stream: ClassVar[int]

    def __init__(self, model: Any, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights of the head from torch's global generator."""
        super().__init__()
        self.model = model
        grid = model.visual.grid_size
        width = model.visual.positional_embedding.shape[1]
        self.words = WordHead(grid[0] * grid[1], width, len(vocabulary.content_words))
        self.tap = TokenTap(model.visual)
        self.vocabulary = vocabulary

    @torch.no_grad()
    def start_from_weights(self, path: Path) -> None:
        """Copies a finished model's weights; a token that it does not know keeps drawn ones, of the same size."""
        given, own = load_file(path), self.model.state_dict()
        known = given.pop(TOKEN_IDS)
        places = torch.tensor([self.vocabulary.ids.index(token) for token in known.tolist()])
        for name, tensor in given.items():
            drawn = own[name]
            if drawn.shape == tensor.shape:
                drawn.copy_(tensor)
                continue
            drawn *= tensor.float().std() / drawn.std()
            axis = next(axis for axis, size in enumerate(tensor.shape) if size != drawn.shape[axis])
            drawn.index_copy_(axis, places, tensor.to(drawn.dtype))

    def losses(self, batch: CaptionBatch) -> dict[str, torch.Tensor]:
        """Return the losses of a batch, by the names of `weights`."""
        raise NotImplementedError


class CocaTrainee(CaptionTrainee):
    """A CoCa: captioning and contrast."""

    weights, stream = {"caption": 2.0, "contrast": 1.0, "words": 1.0}, 2

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        model = compact_model("coca", CoCa, vocabulary)
        nn.init.normal_(model.visual.positional_embedding, std=POSITION_STD)
        super().__init__(model, vocabulary)

    def losses(self, batch: CaptionBatch) -> dict[str, torch.Tensor]:
        """Return the caption's loss, the contrast, and the word head's loss."""
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


class ClipTrainee(CaptionTrainee):
    """A CLIP: contrast, and no low cosines."""

    weights, stream = {"contrast": 1.0, "hinge": 5.0, "words": 1.0}, 3

    def __init__(self, vocabulary: CompactVocabulary) -> None:
        """Draws fresh weights from torch's global generator."""
        super().__init__(compact_model("clip", CLIP, vocabulary), vocabulary)

    def warm_start(self, coca_checkpoint: Path) -> None:
        """Copies the captioner's image trunk and word head; pooling and projection stay fresh."""
        state = torch.load(coca_checkpoint, weights_only=True)["model"]
        own = self.model.visual.state_dict()
        trunk = {name: state[f"model.visual.{name}"] for name in own if name.startswith(TRUNK)}
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


def train_captions(
    kind: type[TraineeT],
    vocabulary: CompactVocabulary,
    sampler: CaptionSampler,
    recipe: CaptionRecipe,
    *,
    seed: int,
    checkpoint: Path,
    start_from: Path | None = None,
    warm_start: Path | None = None,
) -> TraineeT:
    """Return the trained model.

    `start_from` is an earlier phase's checkpoint, or finished weights; of a CLIP `warm_start` is a captioner's.
    """
    torch.manual_seed(seed)
    trainee = kind(vocabulary).train()  # type: ignore[call-arg]
    if isinstance(trainee, ClipTrainee) and warm_start is not None:
        trainee.warm_start(warm_start)
    if start_from is not None and start_from.suffix == ".safetensors":
        trainee.start_from_weights(start_from)
    elif start_from is not None:
        load_module(start_from, trainee)

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rng = np.random.default_rng([seed, step, kind.stream])
        parts = trainee.losses(sampler.draw(recipe.crops_a_step, rng, masked_share=recipe.masked_share))
        return sum((kind.weights[name] * value for name, value in parts.items()), torch.zeros(())), parts

    fit(kind.__name__, trainee, recipe, checkpoint, losses)
    return trainee.eval()
