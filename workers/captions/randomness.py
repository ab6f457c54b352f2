"""Counter-based random draws: a number depends on what it is drawn for, never on when or beside what.

A global generator would tie every draw to the order of the work, and the same run would not give the same
bytes on another number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS_A_BLOCK = 8  # a 64-byte digest holds eight 64-bit words
_MANTISSA_BITS = 53


@dataclass(frozen=True, slots=True)
class DrawKey:
    """What a sequence of draws is for; equal keys give equal draws on every machine.

    Attributes:
        seed: The run's seed.
        image_id: Of the image.
        mask_index: Of the mask, in the proposer's order.
        crop: Name of the crop kind (`masked`, `context_1.2`).
        decoder: Name of the decoder with its parameter (`top_k=5`, `top_p=0.4`).
    """

    seed: int
    image_id: str
    mask_index: int
    crop: str
    decoder: str


def draws(keys: Sequence[DrawKey], num_steps: int) -> NDArray[np.float64]:
    """Return uniform draws (len(keys), num_steps) float64 in [0, 1), one a step.

    The first steps do not depend on `num_steps`. A draw is the upper 53 bits of a 64-bit word of
    BLAKE2b over the key and the number of the block of eight steps.
    """
    num_blocks = -(-num_steps // _DRAWS_A_BLOCK)
    digests = b"".join(_block(key, block) for key in keys for block in range(num_blocks))
    words = np.frombuffer(digests, dtype="<u8").reshape(len(keys), num_blocks * _DRAWS_A_BLOCK)
    uniform = (words >> np.uint64(64 - _MANTISSA_BITS)).astype(np.float64) * 2.0**-_MANTISSA_BITS
    return uniform[:, :num_steps]


def _block(key: DrawKey, block: int) -> bytes:
    # Unit separators: no two different keys may run together into one text.
    text = "\x1f".join((str(key.seed), key.image_id, str(key.mask_index), key.crop, key.decoder, str(block)))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=64).digest()
