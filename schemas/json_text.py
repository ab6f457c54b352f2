"""Reads JSON of runs, child processes, checkpoints and imports: deep nesting and huge numbers are `ValueError`."""

from __future__ import annotations

import json
import re
from typing import Any, Final

# Python's hash of a whole number is its remainder by 2^61 - 1: with larger ones a file of a few megabytes can make one
# dict of ids take minutes.
MAX_BITS: Final = 64
# As many digits as a larger number has.
_MANY_DIGITS: Final = re.compile("[0-9]{19}")
_MANY_DIGITS_UTF8: Final = re.compile(b"[0-9]{19}")


def parse_json(text: str | bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: It is not JSON, not UTF-8, nests deeper than the parser can go (hundreds of levels), or has a whole
            number beyond 64 bits.
    """
    may_have = _MANY_DIGITS.search(text) if isinstance(text, str) else _MANY_DIGITS_UTF8.search(text)
    try:
        # A function for each number makes it slow.
        return json.loads(text, parse_int=_whole) if may_have else json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _whole(digits: str) -> int:
    value = int(digits)
    if value.bit_length() > MAX_BITS:
        raise ValueError(f"its number {digits[:24]} has more than 64 bits")
    return value
