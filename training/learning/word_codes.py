"""A fixed code of each token, beside what a text tower says of it: no two tokens have the same."""

from __future__ import annotations

import torch

# Of SplitMix64, as signed numbers: torch has no unsigned arithmetic.
_STEP, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def word_codes(tokens: torch.Tensor, width: int) -> torch.Tensor:
    """Return codes (..., width) of +1 and -1, float32, of tokens (...) int64: bits of a hash of each token's number.

    Two tokens agree in half of the bits. Nothing is trained or stored, and every machine has the same.
    """
    counter = torch.arange(1, width + 1, device=tokens.device)
    # Wraps at 64 bits, which is what the generator asks for.
    state = (tokens[..., None] * 2**20 + counter) * _STEP
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return (state >> 63).to(torch.float32) * 2 + 1


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Return value >> bits with zeros coming in, as of an unsigned number."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
