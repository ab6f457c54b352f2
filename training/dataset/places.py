"""Where an item of several datasets lies that stand one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Places:
    """The places of parts of known lengths, joined in order."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Take the length of each part, at least one."""
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self._ends[-1])

    def of(self, index: int, *, noun: str) -> tuple[int, int]:
        """Return the part of an item, and its place there; a negative index counts from the end.

        Raises:
            IndexError: There is no such item; `noun` says of what.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{noun} {index} of {len(self)}")
        at = index % len(self)
        part = int(np.searchsorted(self._ends, at, side="right"))
        return part, at - (int(self._ends[part - 1]) if part else 0)
