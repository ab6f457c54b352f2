"""A mask as Label Studio's brush holds it: the image's bytes RGBA row by row, in runs. Exports write, imports read it.

32 bits with the number of bytes, 5 with the bits of a byte less 1, four times 4 with the bits of each kind of length
less 1. Then the runs: a bit that is 1 for equal bytes and 0 for bytes one by one, two bits for the kind of length, the
length less 1, the byte or the bytes. Source: label-studio-sdk 2.1.2, converter/brush.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Red, green, blue and opacity.
_CHANNELS: Final = 4
_HEAD_BITS: Final = 32 + 5
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
    # Filled up to whole bytes, and a byte more where none is missing.
    whole += "0" * (8 - len(whole) % 8)
    return list(int(whole, 2).to_bytes(len(whole) // 8, "big"))


def values_of_strokes(strokes: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the bytes (height, width, 4) of untrusted strokes; a ValueError if they are of another size."""
    if not isinstance(strokes, list) or not all(type(each) is int and 0 <= each < 256 for each in strokes):
        raise ValueError("the strokes are not a list of bytes")
    bits = "".join(f"{each:08b}" for each in strokes)
    values = np.zeros(size[0] * size[1] * _CHANNELS, np.uint8)
    start, at = 0, _HEAD_BITS + 4 * len(_LENGTH_BITS)
    if len(bits) < at or int(bits[:32], 2) != values.size:
        raise ValueError(f"the strokes do not have the size {size} (height, width)")
    if int(bits[32:_HEAD_BITS], 2) != _VALUE_BITS - 1:
        raise ValueError("the strokes do not have values of 8 bits")
    lengths = [int(bits[first : first + 4], 2) + 1 for first in range(_HEAD_BITS, at, 4)]
    while start < values.size:
        first = at + 3 + lengths[int(bits[at + 1 : at + 3] or "0", 2)]
        length = int(bits[at + 3 : first] or "0", 2) + 1
        num_values = 1 if bits[at : at + 1] == "1" else length
        at = first + _VALUE_BITS * num_values
        if at > len(bits) or start + length > values.size:
            raise ValueError("the strokes do not fill the image")
        values[start : start + length] = np.frombuffer(int(bits[first:at], 2).to_bytes(num_values, "big"), np.uint8)
        start += length
    return values.reshape(*size, _CHANNELS)
