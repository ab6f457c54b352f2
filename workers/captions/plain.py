"""The plain definition of the captioner: the whole prefix through open_clip's own forward, for every crop, again.

What the cached engine must equal, written without its parts: no caches, no heads of the vocabulary, no shared
prefixes, one row after the other in numpy. Tests hold the engine to it, benchmarks measure against it. Like
the authors' scripts it batches rows and drops the finished ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.coca_model import CoCa

from schemas.config import CaptionsConfig
from workers.captions.drafts import Decoder, Draft, ImageCrops, configured_decoders
from workers.captions.plain_beam import group_beam_search
from workers.captions.randomness import DrawKey, draws
from workers.captions.vocabulary import SpecialTokens, score_dtype

Floats = NDArray[np.float64]


class PlainEngine:
    """Captions the crops of an image by the definition of method page section 3."""

    def __init__(
        self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int, rows_a_pass: int = 256
    ) -> None:
        """Wrap a model in eval mode; `rows_a_pass` (prefix, crop) pairs go through it at a time."""
        self._model, self._special, self._config = model, special, config
        self._seed, self._rows_a_pass = seed, rows_a_pass

    @torch.inference_mode()
    def drafts(self, image: ImageCrops) -> list[Draft]:
        """Return one draft a mask, crop kind and decoder, in this order."""
        table: dict[tuple[int, str], list[Draft]] = {}
        for kind, pixels in zip(image.kinds, image.pixels, strict=True):
            encoded = self._model(pixels)
            features, tokens = encoded["image_features"], encoded["image_embs"]
            similarity = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
            cosines = (similarity @ similarity.t()).double().cpu().numpy()
            for place in range(image.num_masks):
                table[place, kind] = [self._beam(tokens, place, kind)]
            for draft in self._samples(image, kind, tokens, cosines):
                table[draft.place, kind].append(draft)
        return [draft for mask in range(image.num_masks) for kind in image.kinds for draft in table[mask, kind]]

    def logits(self, image_tokens: torch.Tensor, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the next-token logits (B, V) of B prefixes of one length under B crops' tokens (B, T, D)."""
        text = torch.tensor(prefixes, device=image_tokens.device)
        parts = []
        for tokens, prefix in zip(
            torch.split(image_tokens, self._rows_a_pass), torch.split(text, self._rows_a_pass), strict=True
        ):
            _, embeddings = self._model._encode_text(prefix)
            parts.append(self._model.text_decoder(tokens, embeddings)[:, -1])
        logits = torch.cat(parts)
        return logits.to(score_dtype(logits.dtype))

    def _beam(self, image_tokens: torch.Tensor, place: int, kind: str) -> Draft:
        crop = image_tokens[place]

        def score(prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
            return self.logits(crop.expand(len(prefixes), *crop.shape), prefixes).double()

        tokens, log_prob = group_beam_search(score, self._config, self._special)
        return Draft(place, kind, Decoder("beam"), tokens, log_prob)

    def _samples(self, image: ImageCrops, kind: str, image_tokens: torch.Tensor, cosines: Floats) -> list[Draft]:
        decoders = [decoder for decoder in configured_decoders(self._config) if decoder.name != "beam"]
        rows = [(mask, decoder) for mask in range(len(cosines)) for decoder in decoders]
        keys = [DrawKey(self._seed, image.image_id, image.mask_indices[mask], kind, d.label) for mask, d in rows]
        uniform = draws(keys, self._config.max_length)
        prefixes = [[self._special.sot] for _ in rows]
        log_probs = [0.0] * len(rows)
        live = list(range(len(rows)))
        for length in range(1, self._config.max_length):
            if length == self._config.max_length - 1:
                break  # the next token is EOS by force
            is_live = []
            for row in live:
                mask, decoder = rows[row]
                token, log_prob = self._next(
                    prefixes[row],
                    image_tokens,
                    cosines[mask],
                    mask=mask,
                    decoder=decoder,
                    u=float(uniform[row, length]),
                )
                log_probs[row] += log_prob
                if token != self._special.eos:
                    prefixes[row].append(token)
                    is_live.append(row)
            live = is_live
        drafts = []
        for (mask, decoder), prefix, log_prob in zip(rows, prefixes, log_probs, strict=True):
            how, counted = self._others(cosines[mask], mask)
            named = tuple(image.mask_indices[other] for other in sorted(counted)) if how == "nearest" else ()
            drafts.append(Draft(mask, kind, decoder, tuple(prefix[1:]), log_prob, how, len(counted), named))
        return drafts

    def _others(self, cosines: Floats, mask: int) -> tuple[str, list[int]]:
        sampling = self._config.sampling
        others = [other for other in range(len(cosines)) if other != mask]
        if not sampling.is_distinctive:
            return "none", []
        if not others or (sampling.over_max == "own" and len(cosines) > sampling.others_max):
            return "own", []
        if len(others) <= sampling.others_max:
            return "all", others
        return "nearest", sorted(others, key=lambda other: -cosines[other])[: sampling.others_max]

    def _weights(self, cosines: Floats) -> Floats:
        """Return how much each other mask counts; they sum to one."""
        if self._config.sampling.others_weighting == "mean" or not len(cosines):
            return np.full(len(cosines), 1 / max(len(cosines), 1))
        return _softmax(cosines / self._config.sampling.others_temperature)

    def _next(
        self,
        prefix: Sequence[int],
        image_tokens: torch.Tensor,
        cosines: Floats,
        *,
        mask: int,
        decoder: Decoder,
        u: float,
    ) -> tuple[int, float]:
        """One step of distinctive sampling, formula by formula."""
        _, others = self._others(cosines, mask)
        crops = [mask, *others]
        logits = self.logits(image_tokens[crops], [prefix] * len(crops)).double().cpu().numpy()
        own = logits[0]
        if len(prefix) < self._config.min_length:
            own[self._special.eos] = -np.inf
        kept = _kept(own, decoder)
        temperature = self._config.sampling.temperature
        weights = self._weights(cosines[others]) * cosines[others]
        contrast = own - self._config.sampling.others_weight * (weights @ logits[1:])
        own_q = _softmax(own[kept] / temperature)
        q = _softmax(contrast[kept] / temperature)
        q[kept == self._special.eos] = own_q[kept == self._special.eos]
        if q.sum() == 0:
            q = own_q
        place = int(np.searchsorted(np.cumsum(q), u * q.sum(), side="right"))
        return int(kept[place]), float(np.log(q[place] / q.sum()))


def _kept(own: Floats, decoder: Decoder) -> NDArray[np.int64]:
    """V_i as token ids in ascending order."""
    order = np.argsort(-own, kind="stable")
    if decoder.top_p is None:
        return np.flatnonzero((own >= own[order[(decoder.top_k or 1) - 1]]) & (own > -np.inf))
    reached = np.cumsum(_softmax(own)[order])
    smallest = order[: int((reached < decoder.top_p).sum()) + 1]
    return np.sort(smallest[own[smallest] > -np.inf])


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
