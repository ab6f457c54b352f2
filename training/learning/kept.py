"""What is computed once and kept, as long as there is room for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class KeptByText(Generic[Value]):
    """Values by text up to a number of bytes; beyond it, what was not asked for the longest goes first.

    A training asks for the same texts in every epoch, but one that goes through a large run once, or an evaluation of a
    server, asks for ever new ones.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        """Keep nothing yet.

        Args:
            max_bytes: Of all values together.
            size_of: Bytes of one.
        """
        self._max_bytes, self._size_of = max_bytes, size_of
        self._num_bytes = 0
        # A dict is in the order of insertion: the one that was asked for last is last.
        self._values: dict[str, Value] = {}

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._values)

    def get(self, text: str) -> Value | None:
        """Return what is kept of a text."""
        value = self._values.pop(text, None)
        if value is not None:
            self._values[text] = value
        return value

    def keep(self, text: str, value: Value) -> None:
        """Keep a value, in the place of another of that text, and let go of what there is no room for then."""
        self._let_go(text)
        self._values[text] = value
        self._num_bytes += self._size_of(value)
        while self._num_bytes > self._max_bytes:
            self._let_go(next(iter(self._values)))

    def _let_go(self, text: str) -> None:
        value = self._values.pop(text, None)
        if value is not None:
            self._num_bytes -= self._size_of(value)
