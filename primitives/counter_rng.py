"""Random numbers for captions, datasets and learners: a draw depends on its key alone, not on order, process or batch.

With a global generator every draw would depend on the order of the work. numpy's generators are not used because their
streams may change between versions. Called by `interchange`, `training` and `workers`.

`draws` (BLAKE2b) is the captioner's. All others (SplitMix64 and BLAKE2b over a key) serve the composer, datasets and
training. The bits of both must never change: tables and resumed epochs depend on them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_DRAWS_A_BLOCK = 8  # a 64-byte digest holds eight 64-bit words
_MANTISSA_BITS = 53
# The constants of SplitMix64. Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
_STEP: Final = 0x9E3779B97F4A7C15
_FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9
_SECOND_FACTOR: Final = 0x94D049BB133111EB
_MAX_WORD: Final = 2**64 - 1


# Seed of the run, id of the image, index of the mask in the proposer's order, name of the crop kind (`context_1.2`),
# label of the decoding rule (`top_k=5`). Equal keys give equal draws on every machine.
DrawKey = tuple[int, str, int, str, str]


def draws(keys: Sequence[DrawKey], num_steps: int) -> NDArray[np.float64]:
    """Return uniform draws (len(keys), num_steps) float64 in [0, 1), one per step.

    The first steps do not depend on `num_steps`. A draw is the upper 53 bits of a 64-bit word of
    BLAKE2b over the key and the number of the block of eight steps.
    """
    num_blocks = -(-num_steps // _DRAWS_A_BLOCK)
    # With a separator, two different keys cannot join to the same text.
    texts = ("\x1f".join(map(str, (*key, block))) for key in keys for block in range(num_blocks))
    digests = b"".join(hashlib.blake2b(text.encode("utf-8"), digest_size=64).digest() for text in texts)
    words = np.frombuffer(digests, dtype="<u8").reshape(len(keys), num_blocks * _DRAWS_A_BLOCK)
    uniform = (words >> np.uint64(64 - _MANTISSA_BITS)).astype(np.float64) * 2.0**-_MANTISSA_BITS
    return uniform[:, :num_steps]


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
    """Return draw number `counter` of a key, in [0, bound); for bounds below 2^32 uniform up to 2^-32."""
    word = (key + (counter + 1) * _STEP) & _MAX_WORD
    word = ((word ^ (word >> 30)) * _FIRST_FACTOR) & _MAX_WORD
    word = ((word ^ (word >> 27)) * _SECOND_FACTOR) & _MAX_WORD
    return ((word ^ (word >> 31)) * bound) >> 64


def draw_texts(texts: Sequence[str], num_drawn: int | None, *, seed: int, epoch: int, mask_id: str) -> list[int]:
    """Return which of a mask's texts, at least one, an epoch draws, as positions in `texts`.

    Every text gets a number from (seed, epoch, mask id, text), and the texts with the smallest numbers are drawn:
    without replacement, each text equally likely, in any order of the rows. If a filter removes a text, only masks that
    had drawn it get another draw. If there are fewer than `num_drawn` texts, the drawn ones repeat in their order. None
    draws all texts, in order.
    """
    if num_drawn is None:
        return list(range(len(texts)))
    if len(texts) == 1:
        return [0] * num_drawn
    key = _digest((seed, epoch, mask_id))
    numbers = [hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    order = sorted(range(len(texts)), key=numbers.__getitem__)[:num_drawn]
    return [order[index % len(order)] for index in range(num_drawn)]


def draw_weighted_texts(
    texts: Sequence[str], counts: Sequence[int], num_drawn: int | None, *, seed: int, epoch: int, mask_id: str
) -> list[int]:
    """Return which of a mask's different texts an epoch draws if a text that occurs k times has weight k, as positions.

    Every occurrence of a text gets a number from (seed, epoch, mask id, text, occurrence), and the smallest is drawn:
    uniformly over all occurrences, in any order of the rows. Draws are independent: a text may be drawn again. `counts`
    say how often each text occurs, at least once. If `num_drawn` is None, all texts are drawn once, in order.
    """
    return _independent_draws(
        len(texts), num_drawn, (seed, epoch, mask_id), lambda row, key: _smallest_word(texts[row], counts[row], key)
    )


def draw_texts_by_weight(
    texts: Sequence[str], weights: Sequence[float], num_drawn: int | None, *, seed: int, epoch: int, mask_id: str
) -> list[int]:
    """Return which of a mask's different texts an epoch draws if each is as likely as its weight says, as positions.

    Every text gets a waiting time from (seed, epoch, mask id, number of the draw, text), exponential with its weight,
    above 0, as the rate, and the smallest is drawn: in any order of the rows, independent, and so that other weights of
    a few texts change few draws. If `num_drawn` is None, all texts are drawn once, in order.
    """
    return _independent_draws(
        len(texts), num_drawn, (seed, epoch, mask_id), lambda row, key: _wait(texts[row], key) / weights[row]
    )


def _independent_draws(
    num_rows: int, num_drawn: int | None, words: tuple[str | int, ...], number: Callable[[int, bytes], Any]
) -> list[int]:
    """Return the row with the smallest `number(row, key)` for the key of each draw; all rows if `num_drawn` is None."""
    if num_drawn is None:
        return list(range(num_rows))
    if num_rows == 1:
        return [0] * num_drawn
    keys = [_digest((*words, draw)) for draw in range(num_drawn)]
    return [min(range(num_rows), key=lambda row: number(row, key)) for key in keys]


def _wait(text: str, key: bytes) -> float:
    word = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")
    # The fraction is above 0, so that its logarithm is finite.
    return -math.log((word + 1) * 2.0**-64)


def _smallest_word(text: str, count: int, key: bytes) -> bytes:
    """Return the smallest of the first `count` 8-byte words of a text's stream."""
    num_blocks = -(-count // _DRAWS_A_BLOCK)
    stream = b"".join(
        hashlib.blake2b(f"{block}\x1f{text}".encode(), digest_size=64, key=key).digest() for block in range(num_blocks)
    )
    return min(stream[at : at + 8] for at in range(0, 8 * count, 8))


def _digest(words: Sequence[str | int]) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
