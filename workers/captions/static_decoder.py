"""Decodes groups of crops in fixed shapes: tokens, draws and beams stay on the device, and no step is read.

The order of the work is that of a GPU: all that varies is copied up before the first step, the steps are one after the
other, and the host asks each eight steps alone whether a caption is still open. A row whose kept set is wider than
the top logits, or a beam that they cannot decide, is told; the prefix tree decodes it then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.coca_blocks import CocaBlocks
from pseudoris.workers.captions.decoding_rules import Beam, DecodingRule, SampledCaption, until_eos
from pseudoris.workers.captions.distinctive import count_kept, distinctive_weights, draw
from pseudoris.workers.captions.static_beams import StaticBeams
from pseudoris.workers.captions.static_towers import GroupShape, StaticTowers, split_axis
from pseudoris.workers.captions.vocabulary_logits import (
    SpecialTokens,
    TopLogits,
    Vocabulary,
    check_finite,
    score_dtype,
)
from pseudoris.workers.device import to_device, to_host

# Steps between two questions of the host.
_STEPS_A_READ = 8


@dataclass(frozen=True, slots=True)
class CropGroup:
    """Crops that are decoded together, and what their captions are drawn by.

    Attributes:
        crops: Up to C numbers of encodings; the first of them are the targets.
        weights: (targets, crops) float, of the others of each target, on the device.
        uniform: (targets · rules, max_length) float64 in [0, 1), the draws by prefix length.
    """

    crops: Sequence[int]
    weights: torch.Tensor
    uniform: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The captions of a group, by target, then rule.

    Attributes:
        rows: Tokens without SOT and EOS, and log-probability, of R rows; None where the top logits did not decide.
        beams: The best beam of each crop; None as for `rows`.
    """

    rows: Sequence[SampledCaption | None]
    beams: Sequence[Beam | None]


@dataclass(frozen=True, slots=True)
class _State:
    """What a batch of G groups reads and writes while it is decoded; the addresses do not change.

    Attributes:
        position: (1,) int64, of the newest tokens.
        newest: (G, N) int64, the newest token of each prefix.
        before: (G, N) int64, the token before it.
        is_padding: (G, N, positions) bool, as of `StaticTowers.step`.
        weights: (G, T, C) float, of the others.
        uniform: (G, R, max_length) float64, the draws.
        tokens: (G, R, max_length) int64.
        log_probs: (G, R) float64.
        is_open: (G, R) bool, rows that are not ended.
        is_settled: (G, R) bool: whether the top logits decided every draw.
        is_decided: (G, C) bool: whether the top logits decided every step of the crop's beams.
        is_finite: () bool.
    """

    position: torch.Tensor
    newest: torch.Tensor
    before: torch.Tensor
    is_padding: torch.Tensor
    weights: torch.Tensor
    uniform: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor
    is_open: torch.Tensor
    is_settled: torch.Tensor
    is_decided: torch.Tensor
    is_finite: torch.Tensor

    @classmethod
    def empty(cls, shape: GroupShape, num_groups: int, max_length: int, like: torch.Tensor) -> Self:
        """Allocate the state on the device of `like`."""
        new = partial(torch.zeros, device=like.device)
        prefixes, rows, crops = (num_groups, shape.prefixes), (num_groups, shape.rows), (num_groups, shape.crops)
        return cls(
            position=new(1, dtype=torch.int64),
            newest=new(prefixes, dtype=torch.int64),
            before=new(prefixes, dtype=torch.int64),
            is_padding=new((*prefixes, shape.positions), dtype=torch.bool),
            weights=new((num_groups, shape.targets, shape.crops), dtype=score_dtype(like.dtype)),
            uniform=new((*rows, max_length), dtype=torch.float64),
            tokens=new((*rows, max_length), dtype=torch.int64),
            log_probs=new(rows, dtype=torch.float64),
            is_open=new(rows, dtype=torch.bool),
            is_settled=new(rows, dtype=torch.bool),
            is_decided=new(crops, dtype=torch.bool),
            is_finite=new((), dtype=torch.bool),
        )

    def restart(self, special: SpecialTokens) -> None:
        """Forget the batch before; `weights`, `uniform` and `is_open` are the next one's."""
        for each, value in (
            (self.position, 0),
            (self.newest, special.sot),
            (self.before, -1),
            (self.is_padding, False),
            (self.weights, 0.0),
            (self.tokens, special.eos),
            (self.log_probs, 0.0),
            (self.is_settled, True),
            (self.is_decided, True),
            (self.is_finite, True),
        ):
            each.fill_(value)


class RecordedStep:
    """A function of fixed addresses, which a GPU records at its second run and replays from then on.

    The first run is not recorded: libraries allocate their workspaces in it.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, pool: Any) -> None:
        """Take the memory of the recording, which steps that do not run at once share, from `pool`."""
        self._step, self._is_on_gpu, self._pool = step, device.type == "cuda", pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_run = False

    def __call__(self) -> None:
        """Run it."""
        if not self._has_run or not self._is_on_gpu:
            self._has_run = True
            self._step()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # What is recorded does not run.
            with torch.cuda.graph(self._graph, pool=self._pool):
                self._step()
        self._graph.replay()


class StaticDecoder:
    """Decodes batches of one shape, of up to G groups each."""

    def __init__(
        self,
        blocks: CocaBlocks,
        vocabulary: Vocabulary,
        special: SpecialTokens,
        config: CaptionsConfig,
        *,
        samplers: Sequence[DecodingRule],
        shape: GroupShape,
        num_groups: int,
        num_image_tokens: int,
    ) -> None:
        """Allocate the caches and the state of a batch."""
        self._vocabulary, self._special, self._config = vocabulary, special, config
        self._shape, self.num_groups, self._blocks = shape, num_groups, blocks
        self._towers = StaticTowers(blocks, shape, num_groups, num_image_tokens)
        self._device = device = blocks.like.device
        self._state = _State.empty(shape, num_groups, config.max_length, blocks.like)
        self._beams = StaticBeams((num_groups, shape.crops, shape.beams), config, special.eos, device=device)
        targets = num_groups * shape.targets
        self._top_k = to_device(np.array([rule.top_k or 0 for rule in samplers] * targets, dtype=np.int64), device)
        self._top_p = to_device(np.array([rule.top_p or 1.0 for rule in samplers] * targets), device)
        pad = [special.pad] if config.sampling.pad_ends_caption else []
        self._ends = to_device(np.array([special.eos, *special.further_eos, *pad]), device)
        self._columns = torch.arange(vocabulary.top_width, device=device)
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._steps = [
            RecordedStep(partial(self._step, is_eos_allowed=is_allowed), device, pool) for is_allowed in (False, True)
        ]

    @torch.inference_mode()
    def decode(self, groups: Sequence[CropGroup], image_tokens: torch.Tensor) -> list[Drawn]:
        """Return the captions of up to G groups, from all encodings (U, T, D).

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        self._start(groups, image_tokens)
        last = self._config.max_length - (1 if self._shape.beams else 2)
        for length in range(1, max(last, 1) + 1):
            self._steps[length >= self._config.min_length]()
            if length % _STEPS_A_READ == 0 and not to_host(self._is_any_open())[0]:
                break
        return self._read(groups)

    def _start(self, groups: Sequence[CropGroup], image_tokens: torch.Tensor) -> None:
        state, shape = self._state, self._shape
        state.restart(self._special)
        self._beams.restart()
        crops = np.zeros((self.num_groups, shape.crops), dtype=np.int64)
        uniform, is_open = np.zeros(state.uniform.shape), np.zeros(state.is_open.shape, dtype=np.bool_)
        is_searched = np.zeros(crops.shape, dtype=np.bool_)
        for number, group in enumerate(groups):
            crops[number, : len(group.crops)] = group.crops
            uniform[number, : len(group.uniform)] = group.uniform
            is_open[number, : len(group.uniform)] = True
            is_searched[number, : len(group.weights)] = shape.beams > 0
            state.weights[number, : len(group.weights), : len(group.crops)] = group.weights
        state.uniform.copy_(to_device(uniform, self._device))
        state.is_open.copy_(to_device(is_open, self._device))
        self._beams.is_done.copy_(to_device(~is_searched, self._device))
        self._towers.attend_to(image_tokens[to_device(crops.reshape(-1), self._device)])

    def _is_any_open(self) -> torch.Tensor:
        return self._state.is_open.any() | ~self._beams.is_done.all()

    def _step(self, *, is_eos_allowed: bool) -> None:
        state, shape, text = self._state, self._shape, self._blocks.text
        hides = state.newest if text.correct_cls_mask else state.before
        state.is_padding.index_copy_(2, state.position, (hides == text.pad_id)[..., None])
        hidden = self._towers.step(state.newest, state.position, state.is_padding)
        state.before.copy_(state.newest)
        groups, rows = self.num_groups, shape.rows
        own = self._of_targets(hidden)
        states = torch.cat((own.flatten(0, 1), hidden[:, :, rows:].flatten(0, 2)))
        top = self._vocabulary.top_logits(states, is_eos_allowed=is_eos_allowed, rows_together=len(states))
        if rows:
            state.newest[:, :rows] = self._draw(top.part(slice(groups * rows)), self._of_others(hidden))
        if shape.beams:
            parents, tokens = self._search(top.part(slice(groups * rows, None)))
            state.newest[:, rows:] = tokens.flatten(1)
            self._towers.reorder(parents)
            index = parents[..., None].expand(*parents.shape, shape.positions)
            for each in (state.before[:, rows:, None], state.is_padding[:, rows:]):
                of_beams = split_axis(each, 1, shape.crops, shape.beams)
                of_beams.copy_(of_beams.gather(2, index[..., : of_beams.shape[-1]]))
        state.position.add_(1)

    def _of_targets(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the states (G, R, D) of the sampling rows under their own crops."""
        targets, rules = self._shape.targets, self._shape.rules
        own = split_axis(hidden[:, :targets, : self._shape.rows], 2, targets, rules).diagonal(dim1=1, dim2=2)
        return own.permute(0, 3, 1, 2).flatten(1, 2)

    def _of_others(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the weighted means (G · R, D) of the states of the sampling rows under the others' crops."""
        targets, rules = self._shape.targets, self._shape.rules
        under = split_axis(hidden[:, :, : self._shape.rows].to(self._state.weights.dtype), 2, targets, rules)
        return torch.einsum("gtc,gctrd->gtrd", self._state.weights, under).flatten(0, 2)

    def _draw(self, top: TopLogits, others: torch.Tensor) -> torch.Tensor:
        """Draw the next token (G, R) of each sampling row, as `Sampler.next_tokens`."""
        vocabulary, config, state = self._vocabulary, self._config, self._state
        shape = state.is_open.shape
        num_kept = count_kept(top.logits, top.log_total, self._top_k, self._top_p)
        is_kept = self._columns < num_kept[:, None]
        # In token-id order, as the draw needs; tokens that are not kept go to the end, with weight 0.
        order = top.ids.masked_fill(~is_kept, vocabulary.size).argsort(dim=1)
        ids, logits, is_kept = top.ids.gather(1, order), top.logits.gather(1, order), is_kept.gather(1, order)
        weights = distinctive_weights(
            logits,
            vocabulary.logits_at(others, ids),
            is_kept=is_kept,
            is_eos=vocabulary.is_eos(ids),
            temperature=config.sampling.temperature,
        )
        uniform = state.uniform.index_select(2, state.position + 1).flatten()
        column = draw(weights, uniform)[:, None]
        log_probs = (weights.gather(1, column)[:, 0] / weights.sum(dim=1)).log().view(shape)
        tokens = ids.gather(1, column).view(shape)
        is_open = state.is_open
        state.is_settled.logical_and_(top.contains_kept_set(num_kept).view(shape) | ~is_open)
        is_finite = (top.log_total.isfinite() & others.isfinite().all(dim=1)).view(shape)
        state.is_finite.logical_and_((is_finite | ~is_open).all())
        tokens = tokens.where(is_open & ~torch.isin(tokens, self._ends), self._special.eos)
        state.log_probs.add_(log_probs.where(is_open, 0.0))
        state.tokens.index_copy_(2, state.position, tokens[..., None])
        # The last token is always EOS and needs no hidden state.
        is_open.logical_and_((tokens != self._special.eos) & (state.position + 3 < config.max_length))
        return tokens

    def _search(self, top: TopLogits) -> tuple[torch.Tensor, torch.Tensor]:
        """Advance all beams; return the parent and the newest token of each, (G, C, B)."""
        beams, state, shape = self._beams, self._state, (self.num_groups, self._shape.crops, self._shape.beams, -1)
        wanted = min((2 + len(self._special.further_eos)) * self._shape.beams, self._vocabulary.size)
        logits = top.logits[:, :wanted].double()
        log_probs = logits - top.log_total.double()[:, None]
        is_certain = top.contains_kept_set(torch.full_like(top.ids[:, 0], wanted)).view(shape[:3]).all(dim=-1)
        state.is_decided.logical_and_(is_certain | beams.is_done)
        is_finite = top.log_total.isfinite().view(shape[:3]).all(dim=-1)
        state.is_finite.logical_and_((is_finite | beams.is_done).all())
        ids = top.ids[:, :wanted]
        ids = ids.where(~self._vocabulary.is_eos(ids), self._special.eos).view(shape)
        scores = log_probs if self._config.beam.beam_score == "logprob" else logits
        return beams.advance(scores.view(shape), log_probs.view(shape), ids, state.position)

    def _read(self, groups: Sequence[CropGroup]) -> list[Drawn]:
        beams, state = self._beams, self._state
        tokens, log_probs, is_settled, is_decided, is_finite, *searched = to_host(
            state.tokens,
            state.log_probs,
            state.is_settled,
            state.is_decided,
            state.is_finite,
            beams.beams,
            beams.finished,
            beams.is_done,
        )
        check_finite(is_finite)
        drawn = []
        for number, group in enumerate(groups):
            rows = [
                (until_eos(tokens[number, row], self._special.eos), float(log_probs[number, row]))
                if is_settled[number, row]
                else None
                for row in range(len(group.uniform))
            ]
            found = [
                beams.result(*(each[number, crop] for each in searched)) if is_decided[number, crop] else None
                for crop in range(len(group.weights) if self._shape.beams else 0)
            ]
            drawn.append(Drawn(rows, found))
        return drawn
