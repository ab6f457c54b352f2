"""A captioner that computes the steps of its own model, but draws the captions that another one drew.

Random weights draw nearly distinct captions of full length, which share few prefixes, from flat distributions. What a
captioner takes depends on all of that. Here a large model with random weights takes the path of a trained small one,
draw by draw and beam by beam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig, RunConfig
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions import CocaCaptioner, engine, prefix_tree_decoder
from pseudoris.workers.captions.decoding_rules import BeamExtension, BeamSearch, Ints, PrefixLevel
from pseudoris.workers.captions.distinctive import Sampler
from pseudoris.workers.captions.prefix_tree_decoder import ActiveRows, PrefixTreeDecoding


@dataclass(slots=True)
class DrawnCaptions:
    """What was drawn for a shard.

    A row of the sampler is known by its random numbers, which depend on seed, image, mask, crop kind and rule alone.

    Attributes:
        tokens: Of each row, EOS after its end.
        steps: Of each beam search, known by the first row of its crop, the extensions of each step.
    """

    tokens: dict[bytes, Ints] = field(default_factory=dict)
    steps: dict[bytes, list[list[BeamExtension]]] = field(default_factory=dict)


def draw(config: RunConfig, shard: Shard) -> DrawnCaptions:
    """Return what `config` draws for a shard."""
    drawn = DrawnCaptions()
    caption = CocaCaptioner(config.captions, config.compute)
    with _decoding(_NotedDecoding, drawn):
        caption(shard)
    return drawn


def forced(config: RunConfig, path: CaptionsConfig, drawn: DrawnCaptions) -> Callable[[Shard], Shard]:
    """Return the captioner of `config` under the crops, lengths and rules of `path`, which drew `drawn`."""
    kept = ("architecture", "weights", "cache_bytes")
    captions = path.model_copy(update={name: getattr(config.captions, name) for name in kept})
    computing = CocaCaptioner(captions, config.compute)

    def caption(shard: Shard) -> Shard:
        with _decoding(_ForcedDecoding, drawn), mock.patch.object(prefix_tree_decoder, "Sampler", _NarrowSampler):
            return computing(shard)

    return caption


@contextmanager
def _decoding(kind: type[_NotedDecoding | _ForcedDecoding], drawn: DrawnCaptions) -> Iterator[None]:
    def begin(*given: Any, **named: Any) -> PrefixTreeDecoding:
        decoding = kind(*given, **named)
        decoding.follow(drawn, named["rows"].uniform)
        return decoding

    with mock.patch.object(engine, "PrefixTreeDecoding", begin):
        yield


class _NotedDecoding(PrefixTreeDecoding):
    """Notes what is drawn."""

    def follow(self, drawn: DrawnCaptions, uniform: np.ndarray) -> None:
        self._drawn, self._keys = drawn, _keys(uniform)
        self.searches = [
            _NotedSearch(*_settings(search), drawn.steps.setdefault(key, []))
            for search, key in zip(self.searches, _first_of_each_crop(self._keys, self._target), strict=True)
        ]

    def run(self, searched: Sequence[int] | None = None) -> None:
        super().run(searched)
        self._drawn.tokens.update(zip(self._keys, self._tokens, strict=True))


class _ForcedDecoding(PrefixTreeDecoding):
    """Computes each step, and takes what was drawn."""

    def follow(self, drawn: DrawnCaptions, uniform: np.ndarray) -> None:
        keys = _keys(uniform)
        self._forced = np.stack([drawn.tokens[key] for key in keys])
        self.searches = [
            _ForcedSearch(*_settings(search), drawn.steps[key])
            for search, key in zip(self.searches, _first_of_each_crop(keys, self._target), strict=True)
        ]

    def _sample(self, active: ActiveRows, level: PrefixLevel, hidden: torch.Tensor, length: int) -> Ints:
        super()._sample(active, level, hidden, length)
        tokens: Ints = self._forced[active.rows, length - 1]
        self._tokens[active.rows, length - 1] = tokens
        return tokens


class _NarrowSampler(Sampler):
    """Leaves out kept sets that are wider than the top logits: only flat distributions have them."""

    def _draw_from_all(self, step: Any, own: torch.Tensor, others: torch.Tensor, **_: Any) -> Any:
        return torch.zeros(len(own), dtype=torch.int64), torch.zeros(len(own), dtype=torch.float64)


@dataclass(slots=True)
class _NotedSearch(BeamSearch):
    steps: list[list[BeamExtension]] = field(default_factory=list)

    def advance(self, extensions: Sequence[BeamExtension]) -> list[int]:
        self.steps.append(list(extensions))
        return BeamSearch.advance(self, extensions)


@dataclass(slots=True)
class _ForcedSearch(BeamSearch):
    steps: list[list[BeamExtension]] = field(default_factory=list)
    num_taken: int = 0

    def advance(self, extensions: Sequence[BeamExtension]) -> list[int]:
        self.num_taken += 1
        return BeamSearch.advance(self, self.steps[self.num_taken - 1])


def _settings(search: BeamSearch) -> tuple[int, int, float, bool]:
    return search.num_beams, search.eos, search.length_penalty, search.counts_eos


def _keys(uniform: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in uniform]


def _first_of_each_crop(keys: Sequence[bytes], target: Ints) -> list[bytes]:
    return [keys[row] for row in np.unique(target, return_index=True)[1]]
