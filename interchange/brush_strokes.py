"""Reads and writes a mask as Label Studio's brush holds it. Called by `record_lists` (exports) and `label_studio`.

The layout must stay Label Studio's. First 32 bits with the number of bytes, 5 with the bits of a byte less 1, four
times 4 with the bits of each kind of length less 1. Then the runs: a bit that is 1 for equal bytes and 0 for bytes one
by one, two bits for the kind of length, the length less 1, the byte or the bytes.
Source: label-studio-sdk 2.1.2, converter/brush.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Each pixel has four channels: red, green, blue and opacity.
_CHANNELS: Final = 4
_LENGTH_BITS: Final = (3, 4, 8, 16)
_VALUE_BITS: Final = 8


def brush_strokes(pixels: NDArray[np.bool_]) -> list[int]:
    """Return a mask (height, width) as the brush's bytes, each 0 to 255; all of the image's are 0 or 255."""
    flat = pixels.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}{_VALUE_BITS - 1:05b}", *(f"{each - 1:04b}" for each in _LENGTH_BITS)]
    start = 0
    for end in ends.tolist():
        value = f"{255 * int(flat[start // _CHANNELS]):08b}"
        while start < end:
            length = min(end - start, 2 ** _LENGTH_BITS[-1])
            kind = next(at for at, size in enumerate(_LENGTH_BITS) if length <= 2**size)
            bits.append(f"1{kind:02b}{length - 1:0{_LENGTH_BITS[kind]}b}{value}")
            start += length
    whole = "".join(bits)
    # The bits are padded to whole bytes. As in Label Studio, a byte of zeros is added if no bit is missing.
    whole += "0" * (8 - len(whole) % 8)
    return list(int(whole, 2).to_bytes(len(whole) // 8, "big"))


def values_of_strokes(strokes: Iterable[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the bytes (height, width, 4) of untrusted strokes; a ValueError if they are of another size."""
    data, at = bytes(strokes), 0
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"

    def take(num_bits: int) -> int:
        nonlocal at
        at += num_bits
        if at > len(bits):
            raise ValueError("the strokes do not fill the image")
        return int(bits[at - num_bits : at], 2)

    num_values = size[0] * size[1] * _CHANNELS
    if take(32) != num_values:
        raise ValueError(f"the strokes do not have the size {size} (height, width)")
    if take(5) != _VALUE_BITS - 1:
        raise ValueError("the strokes do not have values of 8 bits")
    lengths = [take(4) + 1 for _ in _LENGTH_BITS]
    values, start = np.zeros(num_values, np.uint8), 0
    while start < num_values:
        is_run, kind = divmod(take(3), 4)
        length = take(lengths[kind]) + 1
        given = take(_VALUE_BITS * (1 if is_run else length))
        if start + length > num_values:
            raise ValueError("the strokes do not fill the image")
        values[start : start + length] = given if is_run else np.frombuffer(given.to_bytes(length, "big"), np.uint8)
        start += length
    return values.reshape(*size, _CHANNELS)
