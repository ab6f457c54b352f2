"""Reads JSON that others may have written: text that nests too deeply is an error like any other damage."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: It is not JSON, not UTF-8, or nests deeper than the parser can go (hundreds of levels).
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
