"""Draws next tokens by distinctive sampling: the kept set V_i, q, the draw. For engines, decoders, `listener`.

Pure functions over rows of next-token logits, and `Sampler`, which applies them to hidden states. A row is one prefix
of one target under one rule, and its draw must depend on that row alone. Symbols as in the paper: z_i are the target's
own logits, z_j another mask's, V_i the kept tokens, s_ij similarities of crops, q the distribution to draw from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import SamplingConfig
from pseudoris.workers.captions.decoding_rules import Ints
from pseudoris.workers.captions.vocabulary_logits import TopLogits, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host

# At most this many rows have their whole vocabulary sorted at a time, which bounds memory.
_ROWS_A_SORT = 64
# `others_weighting=similar` has this softmax temperature. If it is high, all other masks get similar weights.
OTHERS_TEMPERATURE = 0.2


@dataclass(frozen=True, slots=True)
class Others:
    """The other masks that the captions of each mask are contrasted with, and their weights."""

    indices: torch.Tensor  # (N, M) int64, the masks j of mask i; M = 0 without contrast
    # These are w · s_ij / M, or for `similar` w · s_ij · softmax_j(s_ij / temperature), (N, M). w is `others_weight`.
    weights: torch.Tensor
    how: str  # `none`, `all`, `nearest` or `no_contrast`, as `CaptionSample.others` records it


def join_others(parts: Sequence[Others]) -> Others:
    """Return the others of at least one set of masks, with the masks of all sets numbered one after another.

    Shorter rows are padded with the mask itself at weight 0. `how` is taken from the first set.
    """
    width = max(part.indices.shape[1] for part in parts)
    indices, weights = [], []
    first = 0
    for part in parts:
        own = torch.arange(len(part.indices), device=part.indices.device)[:, None]
        missing = width - part.indices.shape[1]
        indices.append(first + torch.cat((part.indices, own.expand(-1, missing)), dim=1))
        weights.append(torch.nn.functional.pad(part.weights, (0, missing)))
        first += len(part.indices)
    return Others(torch.cat(indices), torch.cat(weights), parts[0].how)


def choose_others(similarity: torch.Tensor, sampling: SamplingConfig) -> Others:
    """Return the others of each mask, as `max_others`, `above_max_others` and `is_distinctive` ask.

    A mask alone in its image has no others. With `no_contrast` no mask has others if the image has more masks than
    `max_others`. With `nearest` a mask has its `max_others` most similar others, ties in the order of the masks.

    `similarity` (N, N) float is s_ij: cosines of the crops' image embeddings, not clamped. With `no_contrast`,
    `max_others` is compared with the number of masks N, as the paper's limit of 30 is.

    Source: method page section 3; paper section 3.2.
    """
    num_masks, nobody = similarity.shape[0], similarity[:, :0]
    if not sampling.is_distinctive:
        return Others(nobody.to(torch.int64), nobody, "none")
    if num_masks == 1 or (sampling.above_max_others == "no_contrast" and num_masks > sampling.max_others):
        return Others(nobody.to(torch.int64), nobody, "no_contrast")
    num_others = min(num_masks - 1, sampling.max_others)
    # With -inf a mask is last in its own row, so it is not one of its other masks.
    apart = similarity.masked_fill(torch.eye(num_masks, dtype=torch.bool, device=similarity.device), -torch.inf)
    indices = apart.argsort(dim=1, descending=True, stable=True)[:, :num_others].sort(dim=1).values
    cosines = similarity.gather(1, indices)
    share: torch.Tensor | float = sampling.others_weight / num_others
    if sampling.others_weighting == "similar":
        share = sampling.others_weight * (cosines / OTHERS_TEMPERATURE).softmax(dim=1)
    return Others(indices, cosines * share, "all" if num_others == num_masks - 1 else "nearest")


def descending(logits: torch.Tensor) -> torch.Tensor:
    """Return logits (R, V) in descending order."""
    if logits.device.type != "cpu":
        return logits.sort(dim=1, descending=True).values
    # numpy sorts values without their indices ten times as fast as torch, and only the values are needed.
    return torch.from_numpy(np.sort(logits.numpy(), axis=1)).flip(1)


def count_top_k(ranked: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the top-k set: every token at or above the k-th logit, ties included.

    `ranked` are logits (R, K) in descending order; `k` is (R,) int64, at least 1, and above K means all K.
    """
    last = (k - 1).clamp(max=ranked.shape[1] - 1)
    bound = ranked.gather(1, last[:, None])
    return ((ranked >= bound) & (ranked > -torch.inf)).sum(dim=1)


def count_top_p(ranked: torch.Tensor, log_total: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the top-p set: the fewest tokens whose probabilities reach p.

    `ranked` are logits (R, K) in descending order, `log_total` (R,) is the log of the sum of exp over the vocabulary,
    and `p` (R,) float64 is in (0, 1].
    """
    probabilities = (ranked.double() - log_total.double()[:, None]).exp()
    before = torch.zeros_like(probabilities)
    before[:, 1:] = _cumulated(probabilities)[:, :-1]
    return ((before < p[:, None]) & (ranked > -torch.inf)).sum(dim=1)


def _cumulated(rows: torch.Tensor) -> torch.Tensor:
    if rows.device.type == "cuda" and len(rows) == 1:
        # A GPU sums one row in an order that depends on timing, but two rows in a fixed order. So the row is doubled.
        return rows.expand(2, -1).cumsum(dim=1)[:1]
    return rows.cumsum(dim=1)


def count_kept(ranked: torch.Tensor, log_total: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the size of the kept set of each row: top-k where `top_k` is above 0, else top-p."""
    by_k = count_top_k(ranked, top_k.clamp(min=1))
    # A row with NaN keeps no token. Its count is raised to 1, because a `gather` at -1 would make the GPU unusable.
    return torch.where(top_k > 0, by_k, count_top_p(ranked, log_total, top_p)).clamp(min=1)


def kept_tokens(logits: torch.Tensor, ranked: torch.Tensor, num_kept: torch.Tensor) -> torch.Tensor:
    """Return V_i as (R, V) bool: the first `num_kept` (R,) tokens of each row by logit, then by token id.

    `logits` (R, V) are in token-id order, `ranked` (R, V) are the same in descending order; `num_kept` is at least 1.
    """
    last = ranked.gather(1, (num_kept - 1)[:, None])
    is_above = logits > last
    is_tied = logits == last
    num_tied = (num_kept - is_above.sum(dim=1))[:, None]
    return is_above | (is_tied & (is_tied.cumsum(dim=1) <= num_tied))


def distinctive_weights(
    own: torch.Tensor, others: torch.Tensor, *, is_kept: torch.Tensor, is_eos: torch.Tensor, temperature: float
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
    own_probabilities, contrast = (
        (logits / temperature).masked_fill(~is_kept, -torch.inf).softmax(dim=1)
        for logits in (own.double(), own.double() - others.double())
    )
    weights = torch.where(is_eos, own_probabilities, contrast)
    return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, own_probabilities)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return (R,) int64, the first column whose cumulative weight exceeds `uniform` times the row's total.

    `weights` (R, K) float64 are not negative, in token-id order, with a positive total each row; `uniform` (R,) float64
    is in [0, 1).
    """
    cumulated = _cumulated(weights)
    total = cumulated[:, -1:]
    first_above = (cumulated <= uniform[:, None] * total).sum(dim=1)
    # If rounding raises uniform · total to the total, no sum is above it. Then the last column with weight is drawn.
    return torch.minimum(first_above, (cumulated < total).sum(dim=1))


def draw_from_top(
    vocabulary: Vocabulary,
    top: TopLogits,
    num_kept: torch.Tensor,
    others: torch.Tensor,
    uniform: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the drawn tokens (R,) of rows whose kept set is the first `num_kept` (R,) of `top`, and log-probabilities.

    `others` (R, D) are the weighted means of the other masks' hidden states, `uniform` (R,) as of `draw`.
    """
    is_kept = torch.arange(top.ids.shape[1], device=top.ids.device) < num_kept[:, None]
    # Columns are sorted by token id, as `draw` requires. Tokens that are not kept go to the end with weight 0.
    order = top.ids.masked_fill(~is_kept, vocabulary.size).argsort(dim=1)
    ids, logits, is_kept = (each.gather(1, order) for each in (top.ids, top.logits, is_kept))
    contrast, is_eos = vocabulary.logits_at(others, ids), vocabulary.is_eos(ids)
    weights = distinctive_weights(logits, contrast, is_kept=is_kept, is_eos=is_eos, temperature=temperature)
    return _drawn(weights, ids, uniform)


def draw_from_all(
    vocabulary: Vocabulary,
    logits: torch.Tensor,
    log_total: torch.Tensor,
    rules: tuple[torch.Tensor, torch.Tensor],
    others: torch.Tensor,
    uniform: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `draw_from_top`, for wider kept sets: top-p on a flat distribution. `logits` (R, V) are of all tokens.

    `rules` are k and p, as of `count_kept`.
    """
    ranked = descending(logits)
    is_kept = kept_tokens(logits, ranked, count_kept(ranked, log_total, *rules))
    contrast, _ = vocabulary.all_logits(others, is_eos_allowed=True)
    ids = torch.arange(vocabulary.size, device=logits.device)
    is_eos, ids = vocabulary.is_eos(ids).expand_as(logits), ids.expand_as(logits)
    weights = distinctive_weights(logits, contrast, is_kept=is_kept, is_eos=is_eos, temperature=temperature)
    return _drawn(weights, ids, uniform)


def _drawn(weights: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    column = draw(weights, uniform)[:, None]
    log_probs = (weights.gather(1, column)[:, 0] / weights.sum(dim=1)).log()
    return ids.gather(1, column)[:, 0], log_probs


@dataclass(frozen=True, slots=True)
class SamplerRows:
    """The target, rule and random draws of each of R rows; fixed before the first token."""

    target: Ints  # (R,) crop of each row
    top_k: Ints  # (R,) k of a top-k row, 0 of a top-p row
    top_p: NDArray[np.float64]  # (R,) p of a top-p row, 1 of a top-k row
    uniform: NDArray[np.float64]  # (R, max_length) float64 in [0, 1), the draws by prefix length


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws the next tokens of rows of one prefix length; `temperature` is `SamplingConfig.temperature`."""

    rows: SamplerRows
    vocabulary: Vocabulary
    temperature: float

    def next_tokens(
        self,
        rows: Ints,
        own_of: Ints,
        *,
        own: torch.Tensor,
        others: torch.Tensor,
        prefix_length: int,
        is_eos_allowed: bool,
    ) -> tuple[Ints, NDArray[np.float64]]:
        """Return the drawn tokens (r,) and their natural log-probabilities (r,) float64.

        Args:
            rows: (r,) numbers of the rows that draw.
            own_of: (r,) the line of each row in `own` and `others`.
            own: (O, D) last hidden states of the targets.
            others: (O, D) weighted means of the other masks' hidden states.
            prefix_length: Tokens so far, SOT included.
            is_eos_allowed: Whether a caption may end here.
        """
        device = own.device
        line, fixed = to_device(own_of, device), self.rows
        top_k, top_p, uniform = (
            to_device(column[rows], device) for column in (fixed.top_k, fixed.top_p, fixed.uniform[:, prefix_length])
        )
        top = self.vocabulary.top_logits(own, is_eos_allowed=is_eos_allowed).part(line)
        num_kept = count_kept(top.logits, top.log_total, top_k, top_p)
        most_kept, is_settled, is_finite = to_host(
            num_kept.max(), top.contains_kept_set(num_kept), all_finite(top.log_total, others)
        )
        check_finite(is_finite)
        # All rows draw from the top logits. Rows whose kept set is larger draw again below, from the whole vocabulary.
        some, vocabulary, temperature = top.first(int(most_kept)), self.vocabulary, self.temperature
        tokens, log_probs = draw_from_top(vocabulary, some, num_kept, others[line], uniform, temperature)
        unsettled = np.flatnonzero(~is_settled)
        for first in range(0, len(unsettled), _ROWS_A_SORT):
            part = to_device(unsettled[first : first + _ROWS_A_SORT], device)
            logits = vocabulary.all_logits(own[line[part]], is_eos_allowed=is_eos_allowed)
            rules = top_k[part], top_p[part]
            drawn = draw_from_all(vocabulary, *logits, rules, others[line[part]], uniform[part], temperature)
            tokens[part], log_probs[part] = drawn
        on_host, of_host = to_host(tokens, log_probs)
        return on_host, of_host
