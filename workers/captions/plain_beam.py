"""Group beam search with all its groups, as open_clip runs it: the definition that one group is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from schemas.config import CaptionsConfig
from workers.captions.vocabulary import SpecialTokens

Hypotheses = list[tuple[float, tuple[int, ...], float]]
Score = Callable[[Sequence[Sequence[int]]], torch.Tensor]


def group_beam_search(score: Score, config: CaptionsConfig, special: SpecialTokens) -> tuple[tuple[int, ...], float]:
    """Return the best caption's tokens, without SOT and EOS, and its log-probability.

    Args:
        score: From B prefixes of one length to their next-token logits (B, V) float64.
        config: Its lengths and `beam`.
        special: Token ids.

    Source: open_clip 3.3.0, `CoCa._generate_beamsearch`; transformers 4.56, `BeamSearchScorer`.
    """
    width = config.beam.num_beams // config.beam.num_groups
    groups = [_Group(width, config, special) for _ in range(config.beam.num_groups)]
    length = 1
    while length < config.max_length and not all(group.is_done for group in groups):
        logits = score([prefix for group in groups for prefix in group.prefixes])
        if length < config.min_length:
            logits[:, special.eos] = -torch.inf
        for place, group in enumerate(groups):
            if not group.is_done:
                group.process(logits[place * width : (place + 1) * width], length + 1)
        length += 1
    hypotheses = [hypothesis for group in groups for hypothesis in group.finalised()]
    _, tokens, log_prob = sorted(hypotheses, key=lambda hypothesis: hypothesis[0])[-1]
    return tokens, log_prob


class _Group:
    """The beams of one group and the hypotheses that they have finished."""

    def __init__(self, width: int, config: CaptionsConfig, special: SpecialTokens) -> None:
        self.width, self.eos = width, special.eos
        self.beam = config.beam
        self.prefixes = [(special.sot,)] * width
        self.scores = torch.tensor([0.0] + [-1e9] * (width - 1), dtype=torch.float64)
        self.log_probs = [0.0] * width
        self.hypotheses: Hypotheses = []
        self.is_done = False

    def process(self, logits: torch.Tensor, length: int) -> None:
        log_softmax = logits.log_softmax(dim=1)
        steps = logits if self.beam.beam_score == "logit" else log_softmax
        totals = (steps + self.scores[:, None].to(steps.device)).flatten()
        best = totals.topk(2 * self.width)
        prefixes, scores, log_probs = [], [], []
        for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(place, logits.shape[1])
            log_prob = self.log_probs[beam] + float(log_softmax[beam, token])
            if token != self.eos:
                prefixes.append((*self.prefixes[beam], token))
                scores.append(total)
                log_probs.append(log_prob)
            elif rank < self.width:
                self._add(total, self.prefixes[beam], log_prob, length)
            if len(prefixes) == self.width:
                break
        if len(self.hypotheses) == self.width:
            worst = min(hypothesis[0] for hypothesis in self.hypotheses)
            self.is_done = worst >= best.values[0].item() / length**self.beam.length_penalty
        self.prefixes, self.log_probs = prefixes, log_probs
        self.scores = torch.tensor(scores, dtype=torch.float64)

    def finalised(self) -> Hypotheses:
        if not self.is_done:
            for prefix, total, log_prob in zip(self.prefixes, self.scores.tolist(), self.log_probs, strict=True):
                self._add(total, prefix, log_prob, len(prefix))
        return self.hypotheses

    def _add(self, total: float, prefix: tuple[int, ...], log_prob: float, length: int) -> None:
        self.hypotheses.append((total / length**self.beam.length_penalty, prefix[1:], log_prob))
        if len(self.hypotheses) > self.width:
            self.hypotheses.remove(min(self.hypotheses, key=lambda hypothesis: hypothesis[0]))
