"""Distinctive caption sampling over rows: one row is one rule (a top-k or a top-p) on one crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.workers.captions import distinctive
from pseudoris.workers.captions.prefix_tree import Ints
from pseudoris.workers.captions.vocabulary_logits import FullRanking, TopLogits, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host

# Number of rows whose whole vocabulary is sorted at a time.
_ROWS_A_SORT = 64


@dataclass(frozen=True, slots=True)
class SamplerRows:
    """The target, rule and random draws of each of R rows; fixed before the first token.

    Attributes:
        target: (R,) crop of each row.
        top_k: (R,) k of a top-k row, 0 of a top-p row.
        top_p: (R,) p of a top-p row, 1 of a top-k row.
        uniform: (R, max_length) float64 in [0, 1), the draws by prefix length.
    """

    target: Ints
    top_k: Ints
    top_p: NDArray[np.float64]
    uniform: NDArray[np.float64]


class Sampler:
    """Draws the next tokens of rows of one prefix length."""

    def __init__(self, rows: SamplerRows, vocabulary: Vocabulary, *, eos: int, temperature: float) -> None:
        """Keep the rows; `temperature` is `SamplingConfig.temperature`."""
        self._vocabulary, self._eos, self._temperature = vocabulary, eos, temperature
        self._top_k = torch.from_numpy(rows.top_k)
        self._top_p = torch.from_numpy(rows.top_p)
        self._uniform = torch.from_numpy(rows.uniform)

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
        line, row = to_device(own_of, device), torch.from_numpy(rows)
        step = _Step(
            top_k=to_device(self._top_k[row], device),
            top_p=to_device(self._top_p[row], device),
            uniform=to_device(self._uniform[row, prefix_length], device),
        )
        top = self._vocabulary.top_logits(own, is_eos_allowed=is_eos_allowed).rows(line)
        num_kept = step.num_kept(top)
        width, is_settled, is_finite = to_host(
            num_kept.max(), top.contains_kept_set(num_kept), all_finite(top.log_total, others)
        )
        check_finite(is_finite)
        tokens, log_probs = self._draw(step, top, num_kept, others[line], width=int(width))
        unsettled = np.flatnonzero(~is_settled)
        for first in range(0, len(unsettled), _ROWS_A_SORT):
            part = to_device(unsettled[first : first + _ROWS_A_SORT], device)
            tokens[part], log_probs[part] = self._draw_from_all(
                step.rows(part), own[line[part]], others[line[part]], is_eos_allowed=is_eos_allowed
            )
        drawn, of_drawn = to_host(tokens, log_probs)
        return drawn, of_drawn

    def _draw(
        self, step: _Step, top: TopLogits, num_kept: torch.Tensor, others: torch.Tensor, *, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the top logits, `width` at most; valid for rows whose kept set they contain."""
        ids, logits = top.ids[:, :width], top.logits[:, :width]
        is_kept = torch.arange(width, device=ids.device) < num_kept[:, None]
        # In token-id order, as the draw needs; tokens that are not kept go to the end, with weight 0.
        order = ids.masked_fill(~is_kept, self._vocabulary.size).argsort(dim=1)
        ids, logits, is_kept = ids.gather(1, order), logits.gather(1, order), is_kept.gather(1, order)
        contrast = self._vocabulary.logits_at(others, ids)
        column, log_probs = self._draw_column(step, logits, contrast, is_kept=is_kept, is_eos=ids == self._eos)
        return ids.gather(1, column)[:, 0], log_probs

    def _draw_from_all(
        self, step: _Step, own: torch.Tensor, others: torch.Tensor, *, is_eos_allowed: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the whole vocabulary, for kept sets wider than the top logits: top-p on a flat distribution."""
        logits, log_total = self._vocabulary.all_logits(own, is_eos_allowed=is_eos_allowed)
        ranked = FullRanking.of(logits, log_total)
        is_kept = distinctive.kept_tokens(logits, ranked, step.num_kept(ranked))
        contrast, _ = self._vocabulary.all_logits(others, is_eos_allowed=True)
        is_eos = (torch.arange(self._vocabulary.size, device=logits.device) == self._eos).expand(len(logits), -1)
        column, log_probs = self._draw_column(step, logits, contrast, is_kept=is_kept, is_eos=is_eos)
        return column[:, 0], log_probs

    def _draw_column(
        self, step: _Step, own: torch.Tensor, others: torch.Tensor, *, is_kept: torch.Tensor, is_eos: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the drawn column (r, 1) of logits (r, K) in token-id order, and its log-probability (r,)."""
        weights = distinctive.distinctive_weights(
            own, others, is_kept=is_kept, is_eos=is_eos, temperature=self._temperature
        )
        column = distinctive.draw(weights, step.uniform)[:, None]
        return column, (weights.gather(1, column)[:, 0] / weights.sum(dim=1)).log()


@dataclass(frozen=True, slots=True)
class _Step:
    """The rows' parameters and draws of one step, on the device."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor

    def rows(self, index: torch.Tensor) -> _Step:
        return _Step(self.top_k[index], self.top_p[index], self.uniform[index])

    def num_kept(self, ranked: distinctive.RankedLogits) -> torch.Tensor:
        by_k = distinctive.count_top_k(ranked, self.top_k.clamp(min=1))
        # A row that is not finite has an empty kept set; on a GPU, a count of 0 must not reach a gather.
        return torch.where(self.top_k > 0, by_k, distinctive.count_top_p(ranked, self.top_p)).clamp(min=1)
