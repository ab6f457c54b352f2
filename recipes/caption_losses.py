"""Losses on noisy captions: of (crop, caption) pairs, and for the scene CLIP of captions against objects and patches.

No loss reads the truth of a scene, only pixels and caption texts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


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
    """Mean negative log-probability of the positives of each row."""
    kept = torch.where(fits, logits.log_softmax(-1), torch.zeros_like(logits))
    return -(kept.sum(-1) / fits.sum(-1).clamp(min=1)).mean()
