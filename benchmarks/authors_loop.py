"""The authors' decoding loop, the baseline of the captioner's benchmark: no caches, but reasonably fast.

Rows are batched, finished rows dropped, the text tower runs once a prefix and the decoder once a (prefix,
crop); every step runs whole prefixes again. Draws, sets and contrast are those of
`pseudoris.workers.captions.distinctive`, so that both sides draw the same captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.coca_model import CoCa

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions import distinctive
from pseudoris.workers.captions.decoding_rules import ImageCrops, configured_rules
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype
from pseudoris.workers.counter_rng import DrawKey, draws

# (prefix, crop) pairs a forward pass: the largest that the authors' memory allowed is not known. On a GPU enough to
# fill it: open_clip's decoder gives the logits of all positions, 2.4 MB a pair at 24 tokens in half precision.
PAIRS_A_PASS = {"cpu": 256, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Target (R,), k or 0 (R,), p (R,), uniform numbers (R, max_length) of the rows still alive."""

    target: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor

    def at(self, index: torch.Tensor) -> _Rows:
        return _Rows(self.target[index], self.top_k[index], self.top_p[index], self.uniform[index])


class AuthorsLoop:
    """Distinctive sampling of one crop kind, ten decoders a mask, whole prefixes at every step."""

    def __init__(self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int) -> None:
        self._model, self._special, self._config, self._seed = model, special, config, seed
        self._device = model.text_decoder.text_projection.device

    @torch.inference_mode()
    def sample(self, image: ImageCrops, kind: int) -> list[tuple[int, ...]]:
        """Return the sampled tokens, without SOT and EOS, by mask, then rule, of one crop kind."""
        encoded = self._model(image.pixels[kind])
        features = encoded["image_features"]
        embeddings = torch.nn.functional.normalize(features.to(score_dtype(features.dtype)), dim=-1)
        others = distinctive.choose_others(embeddings @ embeddings.t(), self._config.sampling)
        rows = self._rows(image, image.kinds[kind])
        alive = torch.arange(len(rows.target), device=self._device)
        prefixes = torch.full((len(alive), 1), self._special.sot, device=self._device)
        captions: list[tuple[int, ...]] = [()] * len(alive)
        for length in range(1, self._config.max_length - 1):
            live = rows.at(alive)
            own, mean = self._logits(encoded["image_embs"], prefixes, live, others)
            tokens = self._draw(own, mean, live, length)
            prefixes = torch.cat([prefixes, tokens[:, None]], dim=1)
            goes_on = tokens != self._special.eos
            for row, prefix in zip(alive[~goes_on].tolist(), prefixes[~goes_on].tolist(), strict=True):
                captions[row] = tuple(prefix[1:-1])
            alive, prefixes = alive[goes_on], prefixes[goes_on]
            if not len(alive):
                break
        for row, prefix in zip(alive.tolist(), prefixes.tolist(), strict=True):
            captions[row] = tuple(prefix[1:])
        return captions

    def _rows(self, image: ImageCrops, kind: str) -> _Rows:
        rules = [rule for rule in configured_rules(self._config) if rule.name != "beam"]
        pairs = [(mask, rule) for mask in range(image.num_masks) for rule in rules]
        keys = [DrawKey(self._seed, image.image_id, image.mask_indices[p], kind, d.label) for p, d in pairs]
        return _Rows(
            target=torch.tensor([mask for mask, _ in pairs], device=self._device),
            top_k=torch.tensor([rule.top_k or 0 for _, rule in pairs], device=self._device),
            top_p=torch.tensor([rule.top_p or 1.0 for _, rule in pairs], dtype=torch.float64).to(self._device),
            uniform=torch.from_numpy(draws(keys, self._config.max_length)).to(self._device),
        )

    def _logits(
        self, image_tokens: torch.Tensor, prefixes: torch.Tensor, live: _Rows, others: distinctive.Others
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z_i and the weighted mean of the z_j, both (R, V), of the last position."""
        num_crops = len(image_tokens)
        _, text = self._model._encode_text(prefixes)
        own, mean = [], []
        weights = others.weights.new_zeros(len(others.indices), num_crops).scatter(1, others.indices, others.weights)
        rows = torch.arange(len(prefixes), device=self._device)
        for index in torch.split(rows, max(1, PAIRS_A_PASS[self._device.type] // num_crops)):
            pairs = text[index].repeat_interleave(num_crops, dim=0)
            crops = image_tokens.repeat(len(index), 1, 1)
            logits = self._model.text_decoder(crops, pairs)[:, -1].view(len(index), num_crops, -1)
            logits = logits.to(score_dtype(logits.dtype))
            target = live.target[index]
            own.append(logits[torch.arange(len(index), device=self._device), target])
            mean.append((weights[target][:, :, None] * logits).sum(1))
        return torch.cat(own), torch.cat(mean)

    def _draw(self, own: torch.Tensor, mean: torch.Tensor, live: _Rows, length: int) -> torch.Tensor:
        if length < self._config.min_length:
            own[:, self._special.eos] = -torch.inf
        is_kept = torch.zeros_like(own, dtype=torch.bool)
        has_k = live.top_k > 0
        is_kept[has_k] = _top_k_sets(own[has_k], live.top_k[has_k])
        is_kept[~has_k] = _top_p_sets(own[~has_k], live.top_p[~has_k])
        is_eos = torch.zeros_like(is_kept)
        is_eos[:, self._special.eos] = True
        weights = distinctive.distinctive_weights(
            own, mean, is_kept=is_kept, is_eos=is_eos, temperature=self._config.sampling.temperature
        )
        return distinctive.draw(weights, live.uniform[:, length])


def _top_k_sets(own: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Return (R, V) bool, the tokens at or above the k-th logit of each row."""
    if not len(own):
        return torch.zeros_like(own, dtype=torch.bool)
    highest = own.topk(int(top_k.max()), dim=1).values
    return (own >= highest.gather(1, (top_k - 1)[:, None])) & (own > -torch.inf)


def _top_p_sets(own: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return (R, V) bool, the smallest sets that reach p."""
    ordered, ids = own.sort(dim=1, descending=True, stable=True)
    num_kept = distinctive.count_top_p(ordered, own.logsumexp(1), top_p)
    is_first = torch.arange(own.shape[1], device=own.device) < num_kept[:, None]
    return torch.zeros_like(is_first).scatter_(1, ids, is_first)
