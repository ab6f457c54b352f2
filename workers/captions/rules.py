"""The arithmetic of one decoding step: which tokens stay, how likely each is, and which one is drawn.

Pure functions over rows of next-token logits. A row is one prefix of one target under one decoder; the
symbols are those of the method: z_i the target's own logits, z_j another mask's, V_i the tokens kept, s_ij
similarities of the crops, q the distribution drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
import torch

from schemas.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class Heads:
    """The likeliest tokens of each row, likeliest first, equal logits in order of token id.

    Attributes:
        logits: (R, K) float; -inf for a token that is forbidden.
        ids: (R, K) int64 token ids.
        log_total: (R,) float, log of the sum of exp(logit) over the whole vocabulary but what is forbidden.
        rest_max: (R,) float, no token outside the head has a higher logit; -inf where nothing is outside.
    """

    logits: torch.Tensor
    ids: torch.Tensor
    log_total: torch.Tensor
    rest_max: torch.Tensor

    def rows(self, index: torch.Tensor) -> Heads:
        """Return the heads of the rows in `index`, (R',) int64."""
        return Heads(self.logits[index], self.ids[index], self.log_total[index], self.rest_max[index])

    def holds(self, num_kept: torch.Tensor) -> torch.Tensor:
        """Return (R,) bool: the first `num_kept` tokens are the kept set for certain, whatever lies outside."""
        last = self.logits.gather(1, (num_kept - 1)[:, None])[:, 0]
        # A set as large as the head may go on outside: only a token that was left out shows where it ends.
        num_allowed = (self.logits > -torch.inf).sum(dim=1)
        is_whole = self.rest_max == -torch.inf
        return is_whole | ((num_kept < num_allowed) & (last > self.rest_max))


def join_heads(parts: Sequence[Heads]) -> Heads:
    """Return the rows of all parts, which have one width."""
    columns = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Heads))
    return Heads(*columns)


@dataclass(frozen=True, slots=True)
class Others:
    """Which other masks of an image count in the contrast of each mask, and how much.

    Attributes:
        indices: (N, M) int64, the masks j that count for mask i; M = 0 where the target stands alone.
        weights: (N, M) float, others_weight · s_ij / M, or of `similar` others_weight · s_ij · softmax_j(s_ij / T).
        how: `none`, `all`, `nearest` or `own`, as `CaptionSample.others` records it.
    """

    indices: torch.Tensor
    weights: torch.Tensor
    how: str

    @property
    def num_others(self) -> int:
        """Number of others M."""
        return self.indices.shape[1]


def join_others(parts: Sequence[Others]) -> Others:
    """Return the others of several sets of masks, which are numbered one after another; at least one set.

    A row with fewer others than the longest is filled up with the mask itself at weight 0. `how` is the first set's.
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
    """Return the others of each mask by the settings `others_max`, `over_max` and `is_distinctive`.

    Alone, or with more masks than `others_max` under `own`, a target keeps its own distribution. Under
    `nearest` the most similar others count, ties in order of the masks.

    Args:
        similarity: (N, N) float, s_ij: cosines of the crops' image embeddings, not clamped.
        sampling: `others_max` is compared with N, the number of masks, as the paper's limit of 30 is.

    Source: method page section 3; paper section 3.2.
    """
    num_masks = similarity.shape[0]
    if not sampling.is_distinctive:
        return _no_others(similarity, "none")
    if num_masks == 1 or (sampling.over_max == "own" and num_masks > sampling.others_max):
        return _no_others(similarity, "own")
    num_others = min(num_masks - 1, sampling.others_max)
    # The target itself sorts last, wherever its own similarity would put it.
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


class Ordered(Protocol):
    """Logits (R, K) float in descending order, and the log of their total over the vocabulary (R,); as of `Heads`."""

    @property
    def logits(self) -> torch.Tensor: ...  # noqa: D102 -- as above

    @property
    def log_total(self) -> torch.Tensor: ...  # noqa: D102 -- as above


def count_top_k(heads: Ordered, k: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the top-k set: every token at or above the k-th logit, ties included.

    Args:
        heads: Sorted heads.
        k: (R,) int64, at least 1; beyond the head's width it means all of the head.
    """
    place = (k - 1).clamp(max=heads.logits.shape[1] - 1)
    bound = heads.logits.gather(1, place[:, None])
    return ((heads.logits >= bound) & (heads.logits > -torch.inf)).sum(dim=1)


def count_top_p(heads: Ordered, p: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the smallest set that reaches p, the crossing token included.

    Args:
        heads: Sorted heads.
        p: (R,) float64 in (0, 1].
    """
    probabilities = (heads.logits.double() - heads.log_total.double()[:, None]).exp()
    before = torch.zeros_like(probabilities)
    before[:, 1:] = probabilities.cumsum(dim=1)[:, :-1]
    return ((before < p[:, None]) & (heads.logits > -torch.inf)).sum(dim=1)


@dataclass(frozen=True, slots=True)
class WholeOrder:
    """The logits (R, V) of a whole vocabulary in descending order, without the tokens they belong to."""

    logits: torch.Tensor
    log_total: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, log_total: torch.Tensor) -> Self:
        """Order logits (R, V), whose `log_total` (R,) is as of `Heads`."""
        if logits.device.type != "cpu":
            return cls(logits.sort(dim=1, descending=True).values, log_total)
        # numpy sorts values alone with vector instructions, ten times as fast as torch.
        ascending = torch.from_numpy(np.sort(logits.numpy(), axis=1))
        return cls(ascending.flip(1), log_total)


def first_in_order(logits: torch.Tensor, order: WholeOrder, num_kept: torch.Tensor) -> torch.Tensor:
    """Return (R, V) bool, the `num_kept` (R,) tokens of each row that come first: by logit, then by token id.

    Args:
        logits: (R, V) in token-id order.
        order: Of the same logits.
        num_kept: (R,) int64, at least 1.
    """
    last = order.logits.gather(1, (num_kept - 1)[:, None])
    is_above = logits > last
    is_tied = logits == last
    num_tied = (num_kept - is_above.sum(dim=1))[:, None]
    if bool((is_tied.sum(dim=1, keepdim=True) == num_tied).all()):
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

    A softmax over V_i of z_i − Σ_j (s_ij / M) z_j, after which EOS gets its value under the target's own
    softmax over V_i. Where that leaves no weight at all, the target's own distribution stands.

    Args:
        own: (R, K) float, z_i.
        others: (R, K) float, the weighted mean of the z_j; zeros make q the target's own distribution.
        is_kept: (R, K) bool, V_i; at least one token a row.
        is_eos: (R, K) bool.
        temperature: Divides what stands in both softmaxes; V_i is formed before it.

    Source: paper section 3.2; method page section 3.
    """
    own_probabilities = _softmax_over(own.double() / temperature, is_kept)
    contrast = _softmax_over((own.double() - others.double()) / temperature, is_kept)
    weights = torch.where(is_eos, own_probabilities, contrast)
    return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, own_probabilities)


def _softmax_over(logits: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~is_kept, -torch.inf).softmax(dim=1)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the first column whose cumulated weight exceeds `uniform` times the row's total.

    Args:
        weights: (R, K) float64, not negative, columns in token-id order; a positive total each row.
        uniform: (R,) float64 in [0, 1).
    """
    cumulated = weights.cumsum(dim=1)
    total = cumulated[:, -1:]
    first_above = (cumulated <= uniform[:, None] * total).sum(dim=1)
    # uniform · total may round up to the total itself; the last column with weight then holds the draw.
    return torch.minimum(first_above, (cumulated < total).sum(dim=1))
