"""Counter-based numbers: a draw depends on what it is drawn for, never on when, where or beside what.

No global generator, and none of numpy's either: their streams may change between versions, and an epoch that was begun
under one version must be resumable under the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
_STEP: Final = 0x9E3779B97F4A7C15
_FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9
_SECOND_FACTOR: Final = 0x94D049BB133111EB
_MAX_WORD: Final = 2**64 - 1


def key_of(*words: str | int) -> int:
    """Return a 64-bit key of words; equal words give equal keys on every machine."""
    return int.from_bytes(_digest(words), "little")


def permutation(key: int, size: int) -> NDArray[np.int64]:
    """Return 0 ... size-1 in an order that `key` decides, (size,) int64."""
    words = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_STEP) + np.uint64(key)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST_FACTOR)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND_FACTOR)
    return np.argsort(words ^ (words >> np.uint64(31)), kind="stable")


def draw_below(key: int, counter: int, bound: int) -> int:
    """Return draw number `counter` of a key, in [0, bound); for bounds below 2^32 uniform to 2^-32."""
    word = (key + (counter + 1) * _STEP) & _MAX_WORD
    word = ((word ^ (word >> 30)) * _FIRST_FACTOR) & _MAX_WORD
    word = ((word ^ (word >> 27)) * _SECOND_FACTOR) & _MAX_WORD
    return ((word ^ (word >> 31)) * bound) >> 64


def draw_texts(texts: Sequence[str], num_drawn: int | None, *, seed: int, epoch: int, mask_id: str) -> list[int]:
    """Return which of a mask's texts an epoch draws, as positions in `texts`.

    Every text has a number of its own by (seed, epoch, mask id, text), and the smallest ones are drawn: without
    replacement, each text equally likely, whatever the order of the rows. What a filter takes away changes the draw
    only of the masks that had drawn it.

    Args:
        texts: Of one mask, at least one.
        num_drawn: So many; where there are fewer the drawn ones are repeated in their order. None: all, as they stand.
        seed: Of the dataset.
        epoch: Of the training.
        mask_id: Of the mask.
    """
    if num_drawn is None:
        return list(range(len(texts)))
    if len(texts) == 1:
        return [0] * num_drawn
    key = _digest((seed, epoch, mask_id))
    numbers = [hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    order = sorted(range(len(texts)), key=numbers.__getitem__)[:num_drawn]
    return [order[at % len(order)] for at in range(num_drawn)]


def _digest(words: Sequence[str | int]) -> bytes:
    # Unit separators: no two different lists of words may run together into one text.
    return hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
