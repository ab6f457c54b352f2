"""Beam search of many crops at once. For `prefix_tree_decoder` on the host and `static_decoder` on a GPU.

No call reads a tensor on the host, and all tensors keep their addresses, because recorded steps use them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.decoding_rules import Beam, until_eos
from pseudoris.workers.device import to_device

_SCORE, _LOG_PROB, _TOKENS = 0, 1, 2
# All beams but the first start with this score, as in transformers, so that the first step extends only the first.
_INACTIVE = -1e9


class BeamSearches:
    """The searches over S crops by B beams each; `advance` extends them by one token.

    open_clip searches in groups without a diversity term, so that every group does the same search over
    `num_beams / num_groups` beams, and one group is enough. The score of a beam is the sum of raw logits, or of
    log-probabilities, divided by length^penalty; length counts SOT, and EOS unless `counts_eos` is false. Whether any
    open beam can still improve is asked with the token that was just appended counted, EOS or not.
    Source: open_clip 3.3.0, `CoCa._generate_beamsearch`; transformers 4.56, `BeamSearchScorer`; without `counts_eos`
    `BeamSearchScorer` of transformers 4.30.2.

    A beam or finished caption is a row: its score, its log-probability (the sum of natural log-probabilities under the
    full softmax, EOS's included if it was emitted), and its tokens, EOS behind the last.

    Attributes:
        beams: (S, B, 2 + max_length) float64; the score is a sum.
        finished: The same of finished captions, in the order of finding, the score divided; -inf where a place is free.
        is_done: (S,) bool.
    """

    def __init__(self, shape: tuple[int, int], config: CaptionsConfig, eos: int, *, device: torch.device) -> None:
        """Allocate the searches of a shape (S, B), and begin all."""
        num_searches, num_beams = shape
        # Without beams there is one that nothing extends, because no reduction takes an empty dimension.
        self._eos, self._num_beams = eos, max(num_beams, 1)
        of_beams = num_searches, self._num_beams, _TOKENS + config.max_length
        self.beams, self.finished = (torch.zeros(of_beams, dtype=torch.float64, device=device) for _ in range(2))
        self.is_done = torch.zeros(num_searches, dtype=torch.bool, device=device)
        first = np.full((2, *self.beams.shape[1:]), float(eos))
        first[0, :, :_TOKENS], first[0, 1:, _SCORE], first[1, :, _SCORE] = 0.0, _INACTIVE, -math.inf
        self._first_beams, self._first_finished = to_device(first, device)
        # Entry p is for a beam whose newest token is at position p (SOT is at 0). Extended, it has p + 2 tokens.
        counted = range(2, config.max_length + 2), range(2 - (not config.beam.counts_eos), config.max_length + 2)
        self._divisors, self._finished_divisors = (
            to_device(np.array([math.pow(length, config.beam.length_penalty) for length in lengths]), device)
            for lengths in counted
        )
        self._numbers = torch.arange(self._num_beams, device=device)
        self.begin(~self.is_done)

    def begin(self, begins: torch.Tensor) -> None:
        """Begin the searches `begins` (S,) anew."""
        for each, first in ((self.beams, self._first_beams), (self.finished, self._first_finished)):
            each.copy_(first.where(begins[:, None, None], each))
        self.is_done.logical_and_(~begins)

    def advance(
        self,
        scores: torch.Tensor,
        log_probs: torch.Tensor,
        tokens: torch.Tensor,
        position: torch.Tensor,
        goes_on: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to each beam of the searches that `goes_on` (S,); return its parent and its newest token, (S, B).

        Args:
            scores: (S, B, W) float64, of the best W tokens of each beam, as many as a search considers.
            log_probs: (S, B, W) float64.
            tokens: (S, B, W) int64, every EOS as one.
            position: (S,) int64, of the parents' newest tokens.
            goes_on: (S,) bool. Other searches stay as they are; their beams are their own parents.
        """
        width = tokens.shape[-1]
        # Tokens are sorted first, so that the stable sort below orders equal scores by beam, then by token.
        tokens, order = tokens.sort(dim=-1, stable=True)
        columns = torch.stack((scores.gather(-1, order), log_probs.gather(-1, order)), dim=-1)
        columns = (columns + self.beams[..., None, :_TOKENS]).flatten(1, 2)
        sums, order = columns[..., _SCORE].sort(dim=-1, descending=True, stable=True)
        tokens, parents = tokens.flatten(1).gather(-1, order), order // width
        columns = torch.stack((sums, columns[..., _LOG_PROB].gather(-1, order)), dim=-1)
        is_eos = tokens == self._eos
        best = self._extended(columns[:, : self._num_beams], parents[:, : self._num_beams])
        best[..., _SCORE] /= self._finished_divisors.index_select(0, position)[:, None]
        finished = self._with_finished(best, is_eos[:, : self._num_beams] & goes_on[:, None])
        self.finished.copy_(finished)
        bound = sums[:, :1] / self._divisors.index_select(0, position)[:, None]
        scores = finished[..., _SCORE]
        self.is_done.logical_or_(((scores > -torch.inf) & (scores >= bound)).all(dim=-1) & goes_on)
        chosen = is_eos.to(torch.uint8).sort(dim=-1, stable=True).indices[:, : self._num_beams]
        parents = parents.gather(-1, chosen).where(goes_on[:, None], self._numbers)
        columns = columns.gather(1, chosen[..., None].expand(*chosen.shape, _TOKENS))
        beams, tokens = self._extended(columns, parents), tokens.gather(-1, chosen)
        beams.scatter_(
            2, (position[:, None, None] + _TOKENS).expand(-1, self._num_beams, 1), tokens[..., None].double()
        )
        self.beams.copy_(beams.where(goes_on[:, None, None], self.beams))
        return parents, tokens

    def best(self) -> torch.Tensor:
        """Return the best caption of each search, (S, 2 + max_length), as rows. An unfinished beam counts too."""
        beams = self.beams.clone()
        # SOT counts, and there is no EOS: entry p is for p + 2 tokens.
        num_tokens = (beams[..., _TOKENS:] != self._eos).sum(dim=-1)
        beams[..., _SCORE] /= self._divisors[(num_tokens - 1).clamp(min=0)]
        found = self._with_finished(beams, ~self.is_done[:, None].expand(-1, self._num_beams))
        # Of captions with equal scores the last wins, because transformers takes the end of a stable ascending sort.
        last = self._num_beams - 1 - found[..., _SCORE].flip(1).argmax(dim=1)
        return found.gather(1, last[:, None, None].expand(-1, 1, found.shape[2]))[:, 0]

    def _with_finished(self, captions: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return `finished` after those of the captions (S, B, …), in descending order, that end: (S, B) bool."""
        # They take the places of the worst finished captions, the first of equally bad ones first, where they are
        # better. As they come in descending order, none takes the place of another.
        scores = (self.finished[..., _SCORE].flip(1), captions[..., _SCORE].masked_fill(~ends, -torch.inf))
        kept = torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True).indices[:, : self._num_beams]
        kept = (self._num_beams - 1 - kept).where(kept < self._num_beams, kept).sort(dim=1).values
        both = torch.cat((self.finished, captions), dim=1)
        return both.gather(1, kept[..., None].expand_as(self.finished))

    def _extended(self, columns: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Return rows of score, log-probability and the parents' tokens."""
        parents = parents[..., None].expand(-1, -1, self.beams.shape[-1] - _TOKENS)
        return torch.cat((columns, self.beams[..., _TOKENS:].gather(1, parents)), dim=-1)


def beam_of(row: NDArray[np.float64], eos: int) -> Beam:
    """Return a caption from its row in host memory."""
    return Beam(float(row[_SCORE]), float(row[_LOG_PROB]), until_eos(row[_TOKENS:].astype(np.int64), eos))
