"""Logits over the vocabulary, and the likeliest tokens. Called by `workers/captions` and `workers/filtering`.

A model trained on a small vocabulary has columns of zeros for all other tokens: the logit of such a *dead* token is 0
under every prefix. Only the live columns are multiplied. The softmax must still count dead tokens, by their number;
they are listed one by one only for the rare row whose kept set reaches logit 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.primitives.errors import ImageError
from pseudoris.workers.forward_passes import linear, padded
from pseudoris.workers.pass_sizes import PROJECTED_ROWS

# The reason of an image whose scores are infinite or NaN.
NOT_FINITE: Final = "not_finite"
# `TopLogits` has this many columns. Most kept sets fit into them, so a step seldom sorts the whole vocabulary.
_TOP_WIDTH = 64
# `logits_at` gathers about this many bytes of the projection at a time, which bounds memory.
_GATHERED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids."""

    sot: int  # start of text
    eos: int  # end of text
    pad: int
    further_eos: tuple[int, ...] = ()  # other tokens that end a caption; results say `eos` instead
    forbidden: tuple[int, ...] = ()  # never drawn, such as placeholders of an image


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores under a model of `dtype`: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("pseudoris::project", mutates_args=())
def project(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the products (R, V) of states (R, D) and rows (V, D), both in half precision, in float32.

    No product of two such numbers is rounded, so only the order of the sums differs from that of float32 operands.
    """
    return F.linear(states.float(), rows.float())


@project.register_kernel("cuda")
def _(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.mm(states, rows.t(), out_dtype=torch.float32)


def all_finite(*scores: torch.Tensor) -> torch.Tensor:
    """Return whether all scores are finite, () bool on their device, to be read with the results of a step."""
    return torch.stack([part.isfinite().all() for part in scores]).all()


def check_finite(is_finite: NDArray[np.bool_]) -> None:
    """Check what `all_finite` returned.

    Raises:
        ImageError: A score is infinite or NaN: a sum left the range of half precision.
    """
    if not is_finite:
        raise ImageError(
            NOT_FINITE, "the captioner's scores are beyond the range of its precision: bfloat16 reaches further"
        )


@dataclass(frozen=True, slots=True)
class TopLogits:
    """The K likeliest tokens of each row, the likeliest first, equal logits in the order of token ids."""

    logits: torch.Tensor  # (R, K) float; -inf for a token that is forbidden
    ids: torch.Tensor  # (R, K) int64 token ids
    log_total: torch.Tensor  # (R,) float, log of the sum of exp(logit) over all tokens that are not forbidden
    max_outside: torch.Tensor  # (R,) float, an upper bound of the logits of all other tokens; -inf if there are none

    def part(self, rows: Any) -> TopLogits:
        """Return some rows, by an index of their number."""
        return TopLogits(self.logits[rows], self.ids[rows], self.log_total[rows], self.max_outside[rows])

    def first(self, width: int) -> TopLogits:
        """Return the likeliest columns alone; `max_outside` stays that of all columns."""
        return TopLogits(self.logits[:, :width], self.ids[:, :width], self.log_total, self.max_outside)

    def contains_kept_set(self, num_kept: torch.Tensor) -> torch.Tensor:
        """Return (R,) bool: whether the first `num_kept` tokens are certain to be the kept set."""
        last = self.logits.gather(1, (num_kept - 1)[:, None])[:, 0]
        # Tokens outside the top K may be kept too, unless a top one is not and all kept ones are above those outside.
        num_allowed = (self.logits > -torch.inf).sum(dim=1)
        is_whole = self.max_outside == -torch.inf
        return is_whole | ((num_kept < num_allowed) & (last > self.max_outside))


class Vocabulary:
    """Projects hidden states (R, D) to logits, only as many as decoding needs."""

    def __init__(self, projection: torch.Tensor, special: SpecialTokens) -> None:
        """Keep the live columns of `projection` (D, V); those that end a caption, or are forbidden, are always live."""
        self.special = special
        is_live, ends = (projection != 0).any(dim=0), [special.eos, *special.further_eos]
        is_live[[*ends, *special.forbidden]] = True
        self._live = is_live.nonzero()[:, 0]
        # Rows are at least float32: the contrast subtracts scores, and half precision makes different scores equal.
        self._rows = projection.t()[self._live].to(score_dtype(projection.dtype)).contiguous()
        self._linear = linear(self._rows, None)
        # A GPU multiplies this copy in half precision eight times as fast as float32.
        is_half = projection.is_cuda and self._rows.dtype != projection.dtype
        self._half_rows = projection.t()[self._live].contiguous() if is_half else None
        self._num_dead = projection.shape[1] - len(self._live)
        # `_row_of` has each token's row in `_rows`. A dead token has a number behind the last row, and its logit is 0.
        self._row_of = torch.full((projection.shape[1],), len(self._live), device=projection.device)
        self._row_of[self._live] = torch.arange(len(self._live), device=projection.device)
        # `size` counts all tokens, `num_live` those that are not dead. `top_width` is the columns of `TopLogits`.
        self.size = len(self._row_of)
        self.num_live = len(self._live)
        self.top_width = min(_TOP_WIDTH, self.num_live)
        self._eos = torch.tensor(ends, device=projection.device)
        self._eos_columns = self._row_of[self._eos]
        self._forbidden_columns = self._row_of[list(special.forbidden)]

    def is_eos(self, ids: torch.Tensor) -> torch.Tensor:
        """Return which tokens `ids`, of any shape, end a caption, bool."""
        return torch.isin(ids, self._eos)

    def top_logits(
        self, hidden: torch.Tensor, *, is_eos_allowed: bool, rows_together: int = PROJECTED_ROWS
    ) -> TopLogits:
        """Return the likeliest tokens of hidden states (R, D), projected a number of rows at a time."""
        parts = [
            self.top_of(*self.live_logits(part, is_eos_allowed), self.top_width)
            for part in torch.split(hidden, rows_together)
        ]
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((each.logits, each.ids, each.log_total, each.max_outside) for each in parts), strict=True)
        return TopLogits(*(torch.cat(column) for column in columns))

    def top_of(self, live: torch.Tensor, log_total: torch.Tensor, width: int) -> TopLogits:
        """Return the `width` likeliest tokens of logits as of `live_logits`."""
        # topk returns equal values in any order, so columns are sorted by token id, then stably by value.
        columns = live.topk(width, dim=1, sorted=False).indices.sort(dim=1).values
        values, order = live.gather(1, columns).sort(dim=1, descending=True, stable=True)
        ids = self._live[columns.gather(1, order)]
        bound = values[:, -1] if width < live.shape[1] else torch.full_like(log_total, -torch.inf)
        return TopLogits(values, ids, log_total, bound.clamp(min=0.0) if self._num_dead else bound)

    def sorted_logits(self, hidden: torch.Tensor, *, is_eos_allowed: bool | torch.Tensor) -> TopLogits:
        """Return the whole vocabulary as `TopLogits`. Slow; for beams that `top_logits` cannot decide."""
        scores, log_total = self.all_logits(hidden, is_eos_allowed=is_eos_allowed)
        values, ids = scores.sort(dim=1, descending=True, stable=True)
        return TopLogits(values, ids, log_total, torch.full_like(log_total, -torch.inf))

    def all_logits(
        self, hidden: torch.Tensor, *, is_eos_allowed: bool | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (R, V) of hidden states (R, D) in token-id order, and their `log_total` (R,)."""
        live, log_total = self.live_logits(hidden, is_eos_allowed)
        if not self._num_dead:
            return live, log_total
        logits = live.new_zeros(len(hidden), self.size)
        logits[:, self._live] = live
        return logits, log_total

    def log_totals(self, hidden: torch.Tensor, *, rows_together: int = PROJECTED_ROWS) -> torch.Tensor:
        """Return the log of the sum of exp(logit) over the whole vocabulary, EOS included, of states (R, D): (R,)."""
        parts = torch.split(hidden, rows_together)
        return torch.cat([self.live_logits(part, is_eos_allowed=True)[1] for part in parts])

    def logits_at(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (R, K) of hidden states (R, D) at the tokens `ids` (R, K) alone."""
        rows = self._row_of[ids]
        is_dead = rows == len(self._live)
        rows = rows.masked_fill(is_dead, 0)
        states = hidden.to(self._rows.dtype)
        together = max(1, _GATHERED_BYTES // (ids.shape[1] * states.shape[1] * states.element_size()))
        if rows.is_cuda and len(rows) > together:
            # All parts have the same number of rows, because on a GPU the bits of a product may depend on that number.
            whole = -(-len(rows) // together) * together
            rows, states = padded(rows, whole), padded(states, whole)
        parts = zip(torch.split(rows, together), torch.split(states, together), strict=True)
        found = torch.cat([torch.einsum("rkd,rd->rk", self._rows[some], state) for some, state in parts])
        return found[: len(ids)].masked_fill(is_dead, 0.0)

    def live_logits(
        self, hidden: torch.Tensor, is_eos_allowed: bool | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (R, L) of live tokens in token-id order, of hidden states (R, D), and `log_total` (R,).

        `is_eos_allowed` is of all rows, or (R,) bool of each.
        """
        half = self._half_rows
        scores: torch.Tensor = (
            project(hidden, half)
            if half is not None and hidden.dtype == half.dtype
            else self._linear(hidden.to(self._rows.dtype))
        )
        # `index_fill_` is used, because an assignment by index would make the CPU wait for the GPU.
        if len(self._forbidden_columns):
            scores.index_fill_(1, self._forbidden_columns, -torch.inf)
        if isinstance(is_eos_allowed, torch.Tensor):
            ends = scores.index_select(1, self._eos_columns).masked_fill_(~is_eos_allowed[:, None], -torch.inf)
            scores.index_copy_(1, self._eos_columns, ends)
        elif not is_eos_allowed:
            scores.index_fill_(1, self._eos_columns, -torch.inf)
        log_total = scores.logsumexp(dim=1)
        if self._num_dead:
            log_total = torch.logaddexp(log_total, torch.full_like(log_total, math.log(self._num_dead)))
        return scores, log_total
