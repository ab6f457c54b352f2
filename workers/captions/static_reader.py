"""Scores texts under crops in fixed shapes, as `listener.TeacherForcing` does over a prefix tree: without a draw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.workers.captions.decoding_rules import Ints
from pseudoris.workers.captions.static_towers import RecordedStep, StaticTowers
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, check_finite
from pseudoris.workers.device import to_device, to_host

# States projected to the vocabulary at a time.
_ROWS_A_PROJECTION = 512


class StaticReader:
    """Reads batches of one shape, of up to G groups; a group has R texts and C crops, and scores all by all."""

    def __init__(self, towers: StaticTowers, vocabulary: Vocabulary, special: SpecialTokens) -> None:
        """Allocate the state of a batch of `towers`, which have no beams."""
        self._towers, self._vocabulary, self._special = towers, vocabulary, special
        self.num_groups, shape, device = towers.num_groups, towers.shape, towers.blocks.like.device
        new = partial(torch.zeros, device=device)
        texts = (towers.num_groups, shape.rows)
        # Behind a token that is none and SOT.
        self._tokens = new((*texts, 2 + shape.positions), dtype=torch.int64)
        self._lengths, self._position = new(texts, dtype=torch.int64), new(1, dtype=torch.int64)
        self._sums = new((towers.num_groups, shape.crops, shape.rows), dtype=torch.float64)
        self._zero = new(())
        self._step = RecordedStep(self._one_step, towers.recordings)

    @torch.inference_mode()
    def read(
        self, groups: Sequence[tuple[Sequence[Ints], Ints]], image_tokens: torch.Tensor
    ) -> list[NDArray[np.float64]]:
        """Return Σ log p(token | prefix, crop) of each group, (texts, crops) float64.

        Args:
            groups: Up to R texts, EOS included, and up to C numbers of encodings.
            image_tokens: All encodings (U, T, D).

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        shape, special, device = self._towers.shape, self._special, self._tokens.device
        tokens = np.full(self._tokens.shape, special.eos)
        tokens[:, :, 0], tokens[:, :, 1] = -1, special.sot
        lengths, crops = np.zeros(tokens.shape[:2], np.int64), np.zeros((len(tokens), shape.crops), np.int64)
        for number, (texts, of_group) in enumerate(groups):
            crops[number, : len(of_group)] = of_group
            for row, text in enumerate(texts):
                tokens[number, row, 2 : 2 + len(text)], lengths[number, row] = text, len(text)
        self._tokens.copy_(to_device(tokens, device))
        self._lengths.copy_(to_device(lengths, device))
        self._position.zero_()
        self._sums.zero_()
        self._towers.attend_to(image_tokens[to_device(crops.reshape(-1), device)])
        for _ in range(int(lengths.max())):
            self._step()
        (sums,) = to_host(self._sums)
        check_finite(np.isfinite(sums).all())
        return [sums[number, : len(of_group), : len(texts)].T for number, (texts, of_group) in enumerate(groups)]

    def _one_step(self) -> None:
        position = self._position
        before, newest, following = (self._tokens.index_select(2, position + ahead)[..., 0] for ahead in range(3))
        hidden = self._towers.step(newest, before, position).flatten(0, 2)
        totals = self._vocabulary.log_totals(hidden, rows_together=_ROWS_A_PROJECTION)
        following = following[:, None].expand(self._sums.shape).flatten()
        logits = self._vocabulary.logits_at(hidden, following[:, None])[:, 0]
        log_probs = (logits.double() - totals.double()).view(self._sums.shape)
        self._sums.add_(log_probs.where((position < self._lengths)[:, None], self._zero))
        position.add_(1)
