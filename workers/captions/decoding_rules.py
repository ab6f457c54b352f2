"""Decoding without a model: the rules, an image's crops and captions, prefix levels.

Must not import torch. Equal prefixes of all rules, masks and crop kinds are one node of a tree. Unfinished rows have
prefixes of one length, so a tree is decoded by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pseudoris.schemas.shard import CaptionSample
from pseudoris.schemas.shard import DecodingRule as DecodingRule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ImageCrops:
    """The crops of all masks of one image."""

    image_id: str  # part of the key of random draws
    kinds: tuple[str, ...]  # names of the K crop kinds, in the order of the tables
    mask_indices: tuple[int, ...]  # `MaskRecord.index` of the N masks, with gaps; part of the key of random draws
    pixels: torch.Tensor  # (K, N, 3, S, S) float, normalised for the model, on its device and in its dtype
    # (N, E) float, normalised: products of two are the similarities s_ij, for every kind. None: the engine embeds
    # the crops instead.
    embeddings: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class GeneratedCaption:
    """The caption of one crop by one rule, as tokens."""

    mask_number: int  # number of the mask among the image's masks, from 0
    tokens: tuple[int, ...]  # without SOT and EOS
    sample: CaptionSample  # the crop's kind, the rule, and how the caption was drawn


# A sampled caption is its tokens without SOT and EOS, and its log-probability.
SampledCaption = tuple[tuple[int, ...], float]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_VOCABULARY_BOUND = 2**32


@dataclass(frozen=True, slots=True)
class PrefixLevel:
    """The unique prefixes of one length, and the pairs (prefix, crop) whose hidden states a row reads."""

    tokens: Ints  # (U,) the last token of each prefix
    parents: Ints  # (U,) each prefix without its last token, as an index into the previous level
    row_prefix: Ints  # (R,) the prefix of each row
    pair_prefix: Ints  # (P,) prefixes of the pairs, which are ordered by crop, then prefix
    pair_crop: Ints  # (P,) their crops
    pair_parent: Ints  # (P,) the pair of the same crop and the parent prefix, in the previous level
    pair_of: Ints  # (U, C) index of the pair, -1 if no row reads it


def extend(before: PrefixLevel | None, parents: Ints, tokens: Ints, needs: Bools) -> PrefixLevel:
    """Return the level after `before`, which is None at the root: each of R rows appends its token of `tokens` (R,).

    `parents` (R,) are the rows' prefixes in `before`, zeros at the root. `needs` (R, C) says for which crops each row
    reads its new prefix: a subset of those for which it read the previous one.
    """
    keys, first, row_prefix = np.unique(parents * _VOCABULARY_BOUND + tokens, return_index=True, return_inverse=True)
    by_prefix = np.argsort(row_prefix, kind="stable")
    starts = np.searchsorted(row_prefix[by_prefix], np.arange(len(keys)))
    needed = np.logical_or.reduceat(needs[by_prefix], starts, axis=0)
    pair_crop, pair_prefix = np.nonzero(needed.T)
    pair_of = np.full(needed.shape, -1, dtype=np.int64)
    pair_of[pair_prefix, pair_crop] = np.arange(len(pair_crop))
    prefix_parents = parents[first]
    return PrefixLevel(
        tokens=tokens[first],
        parents=prefix_parents,
        row_prefix=row_prefix.astype(np.int64),
        pair_prefix=pair_prefix,
        pair_crop=pair_crop,
        pair_parent=pair_prefix[:0] if before is None else before.pair_of[prefix_parents[pair_prefix], pair_crop],
        pair_of=pair_of,
    )


def until_eos(tokens: Ints, eos: int) -> tuple[int, ...]:
    """Return the tokens (L,) before the first EOS, of which there is one."""
    every = tokens.tolist()
    return tuple(every[: every.index(eos)])


class Towers(Protocol):
    """A captioner's decoder over the levels of one prefix tree, with caches; encodings are its image tower's."""

    max_prefix_length: int  # the longest prefix, SOT included, that the model has positions for
    num_pairs: int  # pairs (prefix, crop) computed so far; for benchmarks, as the next
    num_asked: int  # pairs that rows of the captioner read; without a tree all of these would be computed

    def image_bytes(self, encodings: Sequence[Any]) -> int:
        """Return the bytes that the crops of these encodings, at least one, take while they are attended to."""

    def attend_to(self, encodings: Sequence[Any]) -> None:
        """Drop all prefixes, and attend to the crops of these encodings from now on."""

    def mark(self) -> Any:
        """Return how full the caches are, for `rewind`."""

    def rewind(self, mark: Any) -> None:
        """Free everything cached since `mark`."""

    def bytes_after(self, level: PrefixLevel, num_steps: int) -> int:
        """Return the size of the caches in bytes after `num_steps` more levels as wide as `level`."""

    def make_room(self, level: PrefixLevel, num_steps: int, budget_bytes: int) -> int:
        """Allocate memory for `num_steps` more levels as wide as `level`, and free what then exceeds `budget_bytes`.

        Returns the bytes that the caches have allocated.
        """

    def step(self, level: PrefixLevel, before: Any) -> tuple[torch.Tensor, Any]:
        """Return the last hidden states (P, D) of the level's pairs, ready for the vocabulary, and its cache index.

        `before` is the cache index of the previous level, None at the root.
        """


@dataclass(frozen=True, slots=True)
class Beam:
    """A caption that a beam search has found."""

    score: float  # sum of logits or log-probabilities, divided by length^penalty
    log_prob: float  # sum of natural log-probabilities, including EOS if it was emitted
    tokens: tuple[int, ...]  # without SOT and EOS
