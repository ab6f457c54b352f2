"""The vocabulary projection, computed once a hidden state and read only where the rules look.

A model trained on a small vocabulary carries it scattered into a table of zeros: the logit of such a
*dead* token is exactly 0 under every prefix. Only the live columns are multiplied; the dead ones enter the
softmax by their number, and by name only in the rare row whose kept set reaches down to logit 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from schemas.errors import ImageError
from workers.captions.rules import Heads, join_heads
from workers.linear import linear

# Wide enough for the top-k and most nuclei, narrow enough that a step does not sort the vocabulary.
_HEAD_WIDTH = 64
# Rows of the vocabulary that exist at a time: 49,408 float32 logits of 256 rows are 50 MB, and their softmax as much.
_ROWS_A_PROJECTION = 256
# Columns of the vocabulary, gathered row by row, that exist at a time.
_GATHERED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids that decoding knows by name: start of text, end of text, and padding."""

    sot: int
    eos: int
    pad: int


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores under a model of `dtype`: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_finite(*scores: torch.Tensor) -> None:
    """Accept scores that are numbers.

    Raises:
        ImageError: One is infinite or no number: a sum beyond the range of half precision.
    """
    # One answer for all, so that a GPU is waited for once.
    if not bool(torch.stack([part.isfinite().all() for part in scores]).all()):
        raise ImageError(
            "not_finite",
            "the captioner's scores are beyond the range of its precision: bfloat16 reaches further",
        )


class Vocabulary:
    """From hidden states (R, D) to what the rules need of their logits."""

    def __init__(self, projection: torch.Tensor, eos: int) -> None:
        """Keep the live columns of `projection` (D, V); the token `eos` counts as live in any case."""
        is_live = (projection != 0).any(dim=0)
        is_live[eos] = True
        self._live = is_live.nonzero()[:, 0]
        # Scores of half precision would tie, and the contrast is a difference of two: this one product is exact.
        self._rows = projection.t()[self._live].to(score_dtype(projection.dtype)).contiguous()
        self._linear = linear(self._rows, None)
        self._num_dead = projection.shape[1] - len(self._live)
        # The row of a token; dead tokens share a row of zeros behind the live ones.
        self._row_of = torch.full((projection.shape[1],), len(self._live), device=projection.device)
        self._row_of[self._live] = torch.arange(len(self._live), device=projection.device)
        self._eos_column = int(self._row_of[eos])

    @property
    def size(self) -> int:
        """Number of tokens, dead ones included."""
        return len(self._row_of)

    def heads(self, hidden: torch.Tensor, *, is_eos_allowed: bool) -> Heads:
        """Return the narrow heads of hidden states (R, D)."""
        parts = [self._narrow_heads(part, is_eos_allowed) for part in torch.split(hidden, _ROWS_A_PROJECTION)]
        return parts[0] if len(parts) == 1 else join_heads(parts)

    def _narrow_heads(self, hidden: torch.Tensor, is_eos_allowed: bool) -> Heads:
        scores, log_total = self._scores(hidden, is_eos_allowed)
        width = min(_HEAD_WIDTH, scores.shape[1])
        # topk leaves the order of equal values open: by token id first, then stably by value.
        columns = scores.topk(width, dim=1, sorted=False).indices.sort(dim=1).values
        values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
        ids = self._live[columns.gather(1, order)]
        bound = values[:, -1] if width < scores.shape[1] else torch.full_like(log_total, -torch.inf)
        if self._num_dead:
            bound = bound.clamp(min=0.0)
        return Heads(values, ids, log_total, bound)

    def whole_heads(self, hidden: torch.Tensor, *, is_eos_allowed: bool) -> Heads:
        """Return heads that hold the whole vocabulary: slow, for the beams that a narrow head cannot settle."""
        scores, log_total = self.whole_logits(hidden, is_eos_allowed=is_eos_allowed)
        values, ids = scores.sort(dim=1, descending=True, stable=True)
        return Heads(values, ids, log_total, torch.full_like(log_total, -torch.inf))

    def whole_logits(self, hidden: torch.Tensor, *, is_eos_allowed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (R, V) of hidden states (R, D) in token-id order, and `log_total` of them (R,)."""
        live, log_total = self._scores(hidden, is_eos_allowed)
        if not self._num_dead:
            return live, log_total
        logits = live.new_zeros(len(hidden), self.size)
        logits[:, self._live] = live
        return logits, log_total

    def log_totals(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the log of the sum of exp(logit) over the whole vocabulary, EOS included, of states (R, D): (R,)."""
        parts = torch.split(hidden, _ROWS_A_PROJECTION)
        return torch.cat([self._scores(part, is_eos_allowed=True)[1] for part in parts])

    def logits_at(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (R, K) of hidden states (R, D) at the tokens `ids` (R, K) alone."""
        rows = self._row_of[ids]
        is_dead = rows == len(self._live)
        rows = rows.masked_fill(is_dead, 0)
        states = hidden.to(self._rows.dtype)
        together = max(1, _GATHERED_BYTES // (ids.shape[1] * states.shape[1] * states.element_size()))
        parts = zip(torch.split(rows, together), torch.split(states, together), strict=True)
        found = torch.cat([torch.einsum("rkd,rd->rk", self._rows[some], state) for some, state in parts])
        return found.masked_fill(is_dead, 0.0)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self._linear(hidden.to(self._rows.dtype))
        return projected

    def _scores(self, hidden: torch.Tensor, is_eos_allowed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self._project(hidden)
        if not is_eos_allowed:
            scores[:, self._eos_column] = -torch.inf
        log_total = scores.logsumexp(dim=1)
        if self._num_dead:
            log_total = torch.logaddexp(log_total, torch.full_like(log_total, math.log(self._num_dead)))
        return scores, log_total
