"""The plain definition of the captioner, which the cached engine must equal.

Every step runs the whole prefix through open_clip's own forward. Nothing is shared with the engine: no caches, no top
logits, no prefix tree. Rows are sampled one by one in numpy, and beam search runs all its groups. Like the authors'
scripts it batches rows and drops finished ones. Tests and benchmarks compare the engine with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.coca_model import CoCa

from pseudoris.primitives.counter_rng import draws
from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.shard import CaptionSample
from pseudoris.workers.captions.decoding_rules import DecodingRule, GeneratedCaption, ImageCrops
from pseudoris.workers.captions.distinctive import OTHERS_TEMPERATURE
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype

Hypotheses = list[tuple[float, tuple[int, ...], float]]
Score = Callable[[Sequence[Sequence[int]]], torch.Tensor]


def group_beam_search(score: Score, config: CaptionsConfig, special: SpecialTokens) -> tuple[tuple[int, ...], float]:
    """Return the best caption's tokens, without SOT and EOS, and its log-probability.

    Args:
        score: Returns the next-token logits (B, V) float64 of B prefixes of one length.
        config: Its lengths and its `beam` are read.
        special: Token ids.

    Source: open_clip 3.3.0, `CoCa._generate_beamsearch`; transformers 4.56, `BeamSearchScorer` (4.30.2 without EOS).
    """
    width = config.beam.num_beams // config.beam.num_groups
    groups = [_Group(width, config, special) for _ in range(config.beam.num_groups)]
    length = 1
    while length < config.max_length and not all(group.is_done for group in groups):
        logits = score([prefix for group in groups for prefix in group.prefixes])
        if length < config.min_length:
            logits[:, [special.eos, *special.further_eos]] = -torch.inf
        for index, group in enumerate(groups):
            if not group.is_done:
                group.process(logits[index * width : (index + 1) * width], length + 1)
        length += 1
    hypotheses = [hypothesis for group in groups for hypothesis in group.finalised()]
    _, tokens, log_prob = sorted(hypotheses, key=lambda hypothesis: hypothesis[0])[-1]
    return tokens, log_prob


class _Group:
    """The beams of one group, and their finished hypotheses."""

    def __init__(self, width: int, config: CaptionsConfig, special: SpecialTokens) -> None:
        self.width, self.ends = width, (special.eos, *special.further_eos)
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
        best = totals.topk((1 + len(self.ends)) * self.width)
        prefixes, scores, log_probs = [], [], []
        for rank, (total, position) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(position, logits.shape[1])
            log_prob = self.log_probs[beam] + float(log_softmax[beam, token])
            if token not in self.ends:
                prefixes.append((*self.prefixes[beam], token))
                scores.append(total)
                log_probs.append(log_prob)
            elif rank < self.width:
                self._add(total, self.prefixes[beam], log_prob, length if self.beam.counts_eos else length - 1)
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


Floats = NDArray[np.float64]


class ReferenceEngine:
    """Captions the crops of an image by the definition of method page section 3."""

    def __init__(self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int) -> None:
        """Wrap a model in eval mode."""
        self._model, self._special, self._config, self._seed = model, special, config, seed
        self._ends = [special.eos, *special.further_eos]

    @torch.inference_mode()
    def generate(self, image: ImageCrops) -> list[GeneratedCaption]:
        """Return one caption per mask, crop kind and rule, in this order."""
        table: dict[tuple[int, str], list[GeneratedCaption]] = {}
        for kind, pixels in zip(image.kinds, image.pixels, strict=True):
            encoded = self._model(pixels)
            features, tokens = encoded["image_features"], encoded["image_embs"]
            similarity = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
            cosines = (similarity @ similarity.t()).double().cpu().numpy()
            for number in range(len(image.mask_indices)):
                table[number, kind] = [self._beam(tokens, number, kind)] if self._config.beam.num_beams else []
            for caption in self._samples(image, kind, tokens, cosines):
                table[caption.mask_number, kind].append(caption)
        return [
            caption for mask in range(len(image.mask_indices)) for kind in image.kinds for caption in table[mask, kind]
        ]

    def logits(self, image_tokens: torch.Tensor, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the next-token logits (B, V) of B prefixes of one length under B crops' tokens (B, T, D)."""
        _, embeddings = self._model._encode_text(torch.tensor(prefixes, device=image_tokens.device))
        logits: torch.Tensor = self._model.text_decoder(image_tokens, embeddings)[:, -1]
        return logits.to(score_dtype(logits.dtype))

    def _beam(self, image_tokens: torch.Tensor, number: int, kind: str) -> GeneratedCaption:
        crop = image_tokens[number]

        def score(prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
            logits = self.logits(crop.expand(len(prefixes), *crop.shape), prefixes).double()
            logits[:, list(self._special.forbidden)] = -torch.inf
            return logits

        tokens, log_prob = group_beam_search(score, self._config, self._special)
        return GeneratedCaption(number, tokens, CaptionSample(kind, "beam", None, None, log_prob))

    def _samples(
        self, image: ImageCrops, kind: str, image_tokens: torch.Tensor, cosines: Floats
    ) -> list[GeneratedCaption]:
        rules = [rule for rule in self._config.decoding_rules() if rule.name != "beam"]
        rows = [(mask, rule) for mask in range(len(cosines)) for rule in rules]
        keys = [(self._seed, image.image_id, image.mask_indices[mask], kind, d.label) for mask, d in rows]
        uniform = draws(keys, self._config.max_length)
        prefixes = [[self._special.sot] for _ in rows]
        log_probs = [0.0] * len(rows)
        active = list(range(len(rows)))
        for length in range(1, self._config.max_length):
            if length == self._config.max_length - 1:
                break  # the next token is always EOS
            is_live = []
            for row in active:
                mask, rule = rows[row]
                token, log_prob = self._next(
                    prefixes[row],
                    image_tokens,
                    cosines[mask],
                    mask=mask,
                    rule=rule,
                    u=float(uniform[row, length]),
                )
                log_probs[row] += log_prob
                is_pad = token == self._special.pad and self._config.sampling.pad_ends_caption
                if token not in self._ends and not is_pad:
                    prefixes[row].append(token)
                    is_live.append(row)
            active = is_live
        captions = []
        for (mask, rule), prefix, log_prob in zip(rows, prefixes, log_probs, strict=True):
            how, counted = self._others(cosines[mask], mask)
            named = tuple(image.mask_indices[other] for other in sorted(counted)) if how == "nearest" else ()
            others = how, len(counted), named
            sample = CaptionSample(kind, rule.name, rule.top_k, rule.top_p, log_prob, *others)
            captions.append(GeneratedCaption(mask, tuple(prefix[1:]), sample))
        return captions

    def _others(self, cosines: Floats, mask: int) -> tuple[str, list[int]]:
        sampling = self._config.sampling
        others = [other for other in range(len(cosines)) if other != mask]
        if not sampling.is_distinctive:
            return "none", []
        if not others or (sampling.above_max_others == "no_contrast" and len(cosines) > sampling.max_others):
            return "no_contrast", []
        if len(others) <= sampling.max_others:
            return "all", others
        return "nearest", sorted(others, key=lambda other: -cosines[other])[: sampling.max_others]

    def _weights(self, cosines: Floats) -> Floats:
        """Return the weight of each other mask; the weights sum to one."""
        if self._config.sampling.others_weighting == "mean" or not len(cosines):
            return np.full(len(cosines), 1 / max(len(cosines), 1))
        return _softmax(cosines / OTHERS_TEMPERATURE)

    def _next(
        self,
        prefix: Sequence[int],
        image_tokens: torch.Tensor,
        cosines: Floats,
        *,
        mask: int,
        rule: DecodingRule,
        u: float,
    ) -> tuple[int, float]:
        """One step of distinctive sampling, formula by formula."""
        _, others = self._others(cosines, mask)
        crops = [mask, *others]
        logits = self.logits(image_tokens[crops], [prefix] * len(crops)).double().cpu().numpy()
        own = logits[0]
        if len(prefix) < self._config.min_length:
            own[self._ends] = -np.inf
        own[list(self._special.forbidden)] = -np.inf
        kept = _kept(own, rule)
        temperature = self._config.sampling.temperature
        weights = self._weights(cosines[others]) * cosines[others]
        contrast = own - self._config.sampling.others_weight * (weights @ logits[1:])
        own_q = _softmax(own[kept] / temperature)
        q = _softmax(contrast[kept] / temperature)
        is_eos = np.isin(kept, self._ends)
        q[is_eos] = own_q[is_eos]
        if q.sum() == 0:
            q = own_q
        drawn = int(np.searchsorted(np.cumsum(q), u * q.sum(), side="right"))
        return int(kept[drawn]), float(np.log(q[drawn] / q.sum()))


def _kept(own: Floats, rule: DecodingRule) -> NDArray[np.int64]:
    """V_i as token ids in ascending order."""
    order = np.argsort(-own, kind="stable")
    if rule.top_p is None:
        return np.flatnonzero((own >= own[order[(rule.top_k or 1) - 1]]) & (own > -np.inf))
    reached = np.cumsum(_softmax(own)[order])
    smallest = order[: int((reached < rule.top_p).sum()) + 1]
    return np.sort(smallest[own[smallest] > -np.inf])


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
