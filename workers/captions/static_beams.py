"""Beam search of many crops at once, on the device. For `static_decoder`.

It must find the captions that `BeamSearch` of `decoding_rules` finds, one crop at a time on the host.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.decoding_rules import INACTIVE, Beam, BeamSearch, until_eos
from pseudoris.workers.device import to_device

_SCORE, _LOG_PROB, _TOKENS = 0, 1, 2


class StaticBeams:
    """Beam search in S slots of B beams: the steps of `BeamSearch` for all at once, without a host read.

    A beam or finished caption is a row: its score, its log-probability, and its tokens, EOS behind the last.

    Attributes:
        beams: (S, B, 2 + positions) float64.
        finished: The same of finished captions, in the order of finding; -inf is the score of a place that is free.
        is_done: (S,) bool.
    """

    def __init__(self, shape: tuple[int, int], config: CaptionsConfig, eos: int, *, device: torch.device) -> None:
        """Allocate the searches of a shape (S, B)."""
        self._config, self._eos, self._num_beams = config.beam, eos, shape[1]
        self.beams = torch.zeros((*shape, _TOKENS + config.max_length), dtype=torch.float64, device=device)
        self.finished = self.beams.clone()
        self.is_done = torch.zeros(shape[0], dtype=torch.bool, device=device)
        first = np.full((2, *self.beams.shape[1:]), float(eos))
        first[0, :, :_TOKENS], first[0, 1:, _SCORE], first[1, :, _SCORE] = 0.0, INACTIVE, -math.inf
        self._first_beams, self._first_finished = to_device(first, device)
        # Entry p is for a beam whose newest token is at position p (SOT is at 0). Extended, it has p + 2 tokens.
        counted = range(2, config.max_length + 2), range(2 - (not config.beam.counts_eos), config.max_length + 2)
        self._divisors, self._finished_divisors = (
            to_device(np.array([math.pow(length, config.beam.length_penalty) for length in lengths]), device)
            for lengths in counted
        )
        self._numbers = torch.arange(self._num_beams, device=device)

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
        # Extensions with EOS take the places of the worst finished captions, the first of equally bad ones first, where
        # they are better. They come in descending order, so none takes the place of another.
        ends = is_eos[:, : self._num_beams] & goes_on[:, None]
        scores = torch.cat(
            (self.finished[..., _SCORE].flip(1), best[..., _SCORE].masked_fill(~ends, -torch.inf)), dim=1
        )
        kept = scores.sort(dim=1, descending=True, stable=True).indices[:, : self._num_beams]
        kept = (self._num_beams - 1 - kept).where(kept < self._num_beams, kept).sort(dim=1).values
        both = torch.cat((self.finished, best), dim=1)
        self.finished.copy_(both.gather(1, kept[..., None].expand_as(self.finished)))
        bound = sums[:, :1] / self._divisors.index_select(0, position)[:, None]
        scores = self.finished[..., _SCORE]
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

    def result(self, beams: NDArray[np.float64], finished: NDArray[np.float64], is_done: np.bool_) -> Beam:
        """Return the best caption of one search, from its rows in host memory."""
        search = BeamSearch(self._num_beams, self._eos, self._config.length_penalty, self._config.counts_eos)
        search.beams = [self._beam(row) for row in beams]
        search.finished = [self._beam(row) for row in finished if row[_SCORE] != -math.inf]
        search.is_done = bool(is_done)
        return search.result()

    def _beam(self, row: NDArray[np.float64]) -> Beam:
        tokens = until_eos(row[_TOKENS:].astype(np.int64), self._eos)
        return Beam(float(row[_SCORE]), float(row[_LOG_PROB]), tokens)

    def _extended(self, columns: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Return rows of score, log-probability and the parents' tokens."""
        parents = parents[..., None].expand(-1, -1, self.beams.shape[-1] - _TOKENS)
        return torch.cat((columns, self.beams[..., _TOKENS:].gather(1, parents)), dim=-1)
