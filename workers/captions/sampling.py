"""Distinctive caption sampling over rows: one row is one decoder (a top-k or a top-p) on one crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.captions import rules
from workers.captions.rules import Heads
from workers.captions.tree import Ints
from workers.captions.vocabulary import Vocabulary, check_finite
from workers.device import to_device

# Rows whose whole vocabulary is sorted at a time.
_ROWS_A_WHOLE_HEAD = 64


@dataclass(frozen=True, slots=True)
class SamplerRows:
    """What each of R rows samples; fixed before the first token.

    Attributes:
        target: (R,) crop of each row.
        top_k: (R,) k of a top-k row, 0 of a top-p row.
        top_p: (R,) p of a top-p row, 1 of a top-k row.
        uniform: (R, max_length) float64 in [0, 1), the draws, by prefix length.
    """

    target: Ints
    top_k: Ints
    top_p: NDArray[np.float64]
    uniform: NDArray[np.float64]


class Sampler:
    """Draws the next tokens of rows of one prefix length."""

    def __init__(self, rows: SamplerRows, vocabulary: Vocabulary, *, eos: int, temperature: float) -> None:
        """Hold the rows; `temperature` is `SamplingConfig.temperature`."""
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
            own_of: (r,) each row's line in `own` and `others`.
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
        heads = self._vocabulary.heads(own, is_eos_allowed=is_eos_allowed).rows(line)
        num_kept = step.num_kept(heads)
        check_finite(heads.log_total, others)
        tokens, log_probs = self._draw(step, heads, num_kept, others[line])
        unsettled = (~heads.holds(num_kept)).nonzero()[:, 0]
        for part in torch.split(unsettled, _ROWS_A_WHOLE_HEAD) if len(unsettled) else ():
            tokens[part], log_probs[part] = self._draw_of_all(
                step.rows(part), own[line[part]], others[line[part]], is_eos_allowed=is_eos_allowed
            )
        return tokens.cpu().numpy(), log_probs.cpu().numpy()

    def _draw(
        self, step: _Step, heads: Heads, num_kept: torch.Tensor, others: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from narrow heads, which hold the kept set of the rows that count."""
        width = int(num_kept.max())
        ids, logits = heads.ids[:, :width], heads.logits[:, :width]
        is_kept = torch.arange(width, device=ids.device) < num_kept[:, None]
        # Token-id order, as the draw reads it; what is not kept goes to the end, where it weighs nothing.
        order = ids.masked_fill(~is_kept, self._vocabulary.size).argsort(dim=1)
        ids, logits, is_kept = ids.gather(1, order), logits.gather(1, order), is_kept.gather(1, order)
        contrast = self._vocabulary.logits_at(others, ids)
        column, log_probs = self._draw_column(step, logits, contrast, is_kept=is_kept, is_eos=ids == self._eos)
        return ids.gather(1, column)[:, 0], log_probs

    def _draw_of_all(
        self, step: _Step, own: torch.Tensor, others: torch.Tensor, *, is_eos_allowed: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the whole vocabulary, for kept sets wider than a head: nuclei of flat distributions."""
        logits, log_total = self._vocabulary.whole_logits(own, is_eos_allowed=is_eos_allowed)
        order = rules.WholeOrder.of(logits, log_total)
        is_kept = rules.first_in_order(logits, order, step.num_kept(order))
        contrast, _ = self._vocabulary.whole_logits(others, is_eos_allowed=True)
        is_eos = (torch.arange(self._vocabulary.size, device=logits.device) == self._eos).expand(len(logits), -1)
        column, log_probs = self._draw_column(step, logits, contrast, is_kept=is_kept, is_eos=is_eos)
        return column[:, 0], log_probs

    def _draw_column(
        self, step: _Step, own: torch.Tensor, others: torch.Tensor, *, is_kept: torch.Tensor, is_eos: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the drawn column (r, 1) of logits (r, K) in token-id order, and its log-probability (r,)."""
        weights = rules.distinctive_weights(own, others, is_kept=is_kept, is_eos=is_eos, temperature=self._temperature)
        column = rules.draw(weights, step.uniform)[:, None]
        return column, (weights.gather(1, column)[:, 0] / weights.sum(dim=1)).log()


@dataclass(frozen=True, slots=True)
class _Step:
    """The rows' parameters and draws of one step, on the device."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor

    def rows(self, index: torch.Tensor) -> _Step:
        return _Step(self.top_k[index], self.top_p[index], self.uniform[index])

    def num_kept(self, heads: rules.Ordered) -> torch.Tensor:
        by_k = rules.count_top_k(heads, self.top_k.clamp(min=1))
        # A row that is not finite has no set; on a GPU it must not reach a gather.
        return torch.where(self.top_k > 0, by_k, rules.count_top_p(heads, self.top_p)).clamp(min=1)
