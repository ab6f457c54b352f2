"""The formulas of one step of distinctive sampling: the other masks, the kept set V_i, q, and the draw.

Pure functions over rows of next-token logits. A row is one prefix of one target under one rule. Symbols as in the
paper: z_i are the target's own logits, z_j another mask's, V_i the kept tokens, s_ij the similarities of the crops, q
the distribution to draw from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pseudoris.schemas.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class Others:
    """The other masks that the captions of each mask are contrasted with, and their weights.

    Attributes:
        indices: (N, M) int64, the masks j of mask i; M = 0 without contrast.
        weights: (N, M) float, others_weight · s_ij / M, or with `similar` others_weight · s_ij · softmax_j(s_ij / T).
        how: `none`, `all`, `nearest` or `no_contrast`, as `CaptionSample.others` records it.
    """

    indices: torch.Tensor
    weights: torch.Tensor
    how: str

    @property
    def num_others(self) -> int:
        """Number of others M."""
        return self.indices.shape[1]


def join_others(parts: Sequence[Others]) -> Others:
    """Return the others of at least one set of masks, with the masks of all sets numbered one after another.

    Shorter rows are padded with the mask itself at weight 0. `how` is taken from the first set.
    """
    width = max(part.num_others for part in parts)
    indices, weights = [], []
    first = 0
    for part in parts:
        own = torch.arange(len(part.indices), device=part.indices.device)[:, None]
        missing = width - part.num_others
        indices.append(first + torch.cat((part.indices, own.expand(-1, missing)), dim=1))
        weights.append(torch.nn.functional.pad(part.weights, (0, missing)))
        first += len(part.indices)
    return Others(torch.cat(indices), torch.cat(weights), parts[0].how)


def choose_others(similarity: torch.Tensor, sampling: SamplingConfig) -> Others:
    """Return the others of each mask, as `max_others`, `above_max_others` and `is_distinctive` ask.

    A mask alone in its image has no others. With `no_contrast` no mask has others if the image has more masks than
    `max_others`. With `nearest` a mask has its `max_others` most similar others, ties in the order of the masks.

    Args:
        similarity: (N, N) float, s_ij: cosines of the crops' image embeddings, not clamped.
        sampling: With `no_contrast`, `max_others` is compared with N, the number of masks, as the paper's limit of 30
            is.

    Source: method page section 3; paper section 3.2.
    """
    num_masks = similarity.shape[0]
    if not sampling.is_distinctive:
        return _no_others(similarity, "none")
    if num_masks == 1 or (sampling.above_max_others == "no_contrast" and num_masks > sampling.max_others):
        return _no_others(similarity, "no_contrast")
    num_others = min(num_masks - 1, sampling.max_others)
    # The target itself sorts last.
    apart = similarity.masked_fill(torch.eye(num_masks, dtype=torch.bool, device=similarity.device), -torch.inf)
    indices = apart.argsort(dim=1, descending=True, stable=True)[:, :num_others].sort(dim=1).values
    cosines = similarity.gather(1, indices)
    share: torch.Tensor | float = sampling.others_weight / num_others
    if sampling.others_weighting == "similar":
        share = sampling.others_weight * (cosines / sampling.others_temperature).softmax(dim=1)
    return Others(indices, cosines * share, "all" if num_others == num_masks - 1 else "nearest")


def _no_others(similarity: torch.Tensor, how: str) -> Others:
    empty = similarity[:, :0]
    return Others(empty.to(torch.int64), empty, how)


class RankedLogits(Protocol):
    """Logits (R, K) float in descending order, and `log_total` (R,), the log of the sum of exp over the vocabulary."""

    @property
    def logits(self) -> torch.Tensor: ...  # noqa: D102 -- as above

    @property
    def log_total(self) -> torch.Tensor: ...  # noqa: D102 -- as above


def count_top_k(ranked: RankedLogits, k: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the top-k set: every token at or above the k-th logit, ties included.

    Args:
        ranked: Logits in descending order.
        k: (R,) int64, at least 1; a value above the width K means all K.
    """
    last = (k - 1).clamp(max=ranked.logits.shape[1] - 1)
    bound = ranked.logits.gather(1, last[:, None])
    return ((ranked.logits >= bound) & (ranked.logits > -torch.inf)).sum(dim=1)


def count_top_p(ranked: RankedLogits, p: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the top-p set: the fewest tokens whose probabilities reach p.

    Args:
        ranked: Logits in descending order.
        p: (R,) float64 in (0, 1].
    """
    probabilities = (ranked.logits.double() - ranked.log_total.double()[:, None]).exp()
    before = torch.zeros_like(probabilities)
    before[:, 1:] = _cumulated(probabilities)[:, :-1]
    return ((before < p[:, None]) & (ranked.logits > -torch.inf)).sum(dim=1)


def _cumulated(rows: torch.Tensor) -> torch.Tensor:
    """Return the cumulative sums along each row of (R, K) float64."""
    if rows.device.type == "cuda" and len(rows) == 1:
        # A GPU adds up one row alone in blocks, in an order that timing decides: the last bits differ between calls.
        return rows.expand(2, -1).cumsum(dim=1)[:1]
    return rows.cumsum(dim=1)


def kept_tokens(logits: torch.Tensor, ranked: RankedLogits, num_kept: torch.Tensor) -> torch.Tensor:
    """Return V_i as (R, V) bool: the first `num_kept` (R,) tokens of each row by logit, then by token id.

    Args:
        logits: (R, V) in token-id order.
        ranked: All of the same logits in descending order.
        num_kept: (R,) int64, at least 1.
    """
    last = ranked.logits.gather(1, (num_kept - 1)[:, None])
    is_above = logits > last
    is_tied = logits == last
    num_tied = (num_kept - is_above.sum(dim=1))[:, None]
    # Mostly no tie is divided, and the cumulative sum can be saved; on a GPU the question costs more, a wait.
    if logits.device.type == "cpu" and bool((is_tied.sum(dim=1, keepdim=True) == num_tied).all()):
        return is_above | is_tied
    return is_above | (is_tied & (is_tied.cumsum(dim=1) <= num_tied))


def distinctive_weights(
    own: torch.Tensor,
    others: torch.Tensor,
    *,
    is_kept: torch.Tensor,
    is_eos: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return q(v | w, i) as weights (R, K) float64 over V_i, zero outside; they need not sum to one.

    q is a softmax over V_i of z_i − Σ_j (s_ij / M) z_j, but EOS has its value from the softmax of z_i over V_i. If all
    weights are 0, q is the softmax of z_i over V_i.

    Args:
        own: (R, K) float, z_i.
        others: (R, K) float, the weighted mean of the z_j; zeros without contrast.
        is_kept: (R, K) bool, V_i; at least one token a row.
        is_eos: (R, K) bool.
        temperature: Divides the logits of both softmaxes, after V_i is chosen.

    Source: paper section 3.2; method page section 3.
    """
    own_probabilities = _softmax_over(own.double() / temperature, is_kept)
    contrast = _softmax_over((own.double() - others.double()) / temperature, is_kept)
    weights = torch.where(is_eos, own_probabilities, contrast)
    return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, own_probabilities)


def _softmax_over(logits: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~is_kept, -torch.inf).softmax(dim=1)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the first column whose cumulative weight exceeds `uniform` times the row's total.

    Args:
        weights: (R, K) float64, not negative, columns in token-id order; a positive total each row.
        uniform: (R,) float64 in [0, 1).
    """
    cumulated = _cumulated(weights)
    total = cumulated[:, -1:]
    first_above = (cumulated <= uniform[:, None] * total).sum(dim=1)
    # uniform · total may round up to the total: then the last column with weight is drawn.
    return torch.minimum(first_above, (cumulated < total).sum(dim=1))
