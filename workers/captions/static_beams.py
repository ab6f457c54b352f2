"""Beam search in fixed shapes, the steps of `decoding_rules.BeamSearch` for all crops at once, without a host read.

A beam or finished caption is a row of float64: its score, its log-probability, and its tokens, EOS behind the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.decoding_rules import INACTIVE, Beam, BeamSearch, until_eos
from pseudoris.workers.device import to_device

_SCORE, _LOG_PROB, _TOKENS = 0, 1, 2


class StaticBeams:
    """The searches over (G, C) crops, each with B beams.

    Attributes:
        beams: (G, C, B, 2 + positions) float64.
        finished: The same of finished captions, in the order of finding; -inf is the score of a place that is free.
        is_done: (G, C) bool.
    """

    def __init__(self, shape: Sequence[int], config: CaptionsConfig, eos: int, *, device: torch.device) -> None:
        """Allocate the searches of a shape (G, C, B)."""
        self._config, self._eos, self._num_beams = config.beam, eos, shape[-1]
        self.beams = torch.full((*shape, _TOKENS + config.max_length), float(eos), dtype=torch.float64, device=device)
        self.finished = self.beams.clone()
        self.is_done = torch.zeros(*shape[:-1], dtype=torch.bool, device=device)
        # By position of the parent's newest token. A caption has SOT, and the token about to be appended.
        counted = range(2, config.max_length + 2), range(2 - (not config.beam.counts_eos), config.max_length + 2)
        self._divisors, self._finished_divisors = (
            to_device(np.array([math.pow(length, config.beam.length_penalty) for length in lengths]), device)
            for lengths in counted
        )
        self._numbers = torch.arange(self._num_beams, device=device)
        self._nowhere = torch.full((), self._num_beams, device=device)

    def restart(self) -> None:
        """Begin all searches anew."""
        self.beams.fill_(self._eos)
        self.finished.fill_(self._eos)
        self.finished[..., _SCORE] = -torch.inf
        self.beams[..., :_TOKENS] = 0.0
        self.beams[..., 1:, _SCORE] = INACTIVE
        self.is_done.zero_()

    def advance(
        self, scores: torch.Tensor, log_probs: torch.Tensor, tokens: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to each beam; return its parent and its newest token, (G, C, B).

        Args:
            scores: (G, C, B, W) float64, of the best W tokens of each beam, as many as a search considers.
            log_probs: (G, C, B, W) float64.
            tokens: (G, C, B, W) int64, every EOS as one.
            position: (1,) int64, of the parents' newest tokens.
        """
        width = tokens.shape[-1]
        # Equal scores in the order of beams, then tokens.
        tokens, order = tokens.sort(dim=-1, stable=True)
        columns = torch.stack((scores.gather(-1, order), log_probs.gather(-1, order)), dim=-1)
        columns = (columns + self.beams[..., None, :_TOKENS]).flatten(2, 3)
        sums, order = columns[..., _SCORE].sort(dim=-1, descending=True, stable=True)
        tokens, parents = tokens.flatten(2).gather(-1, order), order // width
        columns = torch.stack((sums, columns[..., _LOG_PROB].gather(-1, order)), dim=-1)
        is_eos = tokens == self._eos
        best = self._extended(columns, parents, slice(0, self._num_beams))
        best[..., _SCORE] /= self._finished_divisors.index_select(0, position)
        for number in range(self._num_beams):
            self._finish(best[..., number, :], is_eos[..., number] & ~self.is_done)
        bound = sums[..., :1] / self._divisors.index_select(0, position)
        scores = self.finished[..., _SCORE]
        self.is_done.logical_or_(((scores > -torch.inf) & (scores >= bound)).all(dim=-1))
        chosen = is_eos.to(torch.uint8).sort(dim=-1, stable=True).indices[..., : self._num_beams]
        parents = parents.gather(-1, chosen)
        columns = columns.gather(2, chosen[..., None].expand(*chosen.shape, _TOKENS))
        beams = self._extended(columns, parents, slice(None))
        tokens = tokens.gather(-1, chosen)
        beams.index_copy_(3, position + _TOKENS, tokens[..., None].double())
        self.beams.copy_(beams)
        return parents, tokens

    def result(self, beams: NDArray[np.float64], finished: NDArray[np.float64], is_done: np.bool_) -> Beam:
        """Return the best caption of one crop, from its rows in host memory."""
        search = BeamSearch(self._num_beams, self._eos, self._config.length_penalty, self._config.counts_eos)
        search.beams = [self._beam(row) for row in beams]
        search.finished = [self._beam(row) for row in finished if row[_SCORE] != -math.inf]
        search.is_done = bool(is_done)
        return search.result()

    def _beam(self, row: NDArray[np.float64]) -> Beam:
        tokens = until_eos(row[_TOKENS:].astype(np.int64), self._eos)
        return Beam(float(row[_SCORE]), float(row[_LOG_PROB]), tokens)

    def _extended(self, columns: torch.Tensor, parents: torch.Tensor, some: slice) -> torch.Tensor:
        """Return rows of score, log-probability and the parents' tokens."""
        parents = parents[..., some, None].expand(-1, -1, -1, self.beams.shape[-1] - _TOKENS)
        return torch.cat((columns[..., some, :], self.beams[..., _TOKENS:].gather(2, parents)), dim=-1)

    def _finish(self, row: torch.Tensor, ends: torch.Tensor) -> None:
        """Append the caption `row` (G, C, 2 + positions) of each search that `ends`, and drop its worst."""
        # Of equal ones the first.
        worst, place = (each[..., 0] for each in self.finished[..., _SCORE].sort(dim=-1, stable=True))
        place = place.where(ends & (row[..., _SCORE] > worst), self._nowhere)
        kept = self._numbers + (self._numbers >= place[..., None])
        both = torch.cat((self.finished, row[..., None, :]), dim=2)
        self.finished.copy_(both.gather(2, kept[..., None].expand_as(self.finished)))
