"""A cache of features, bounded in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TextFeatureCache(Generic[Value]):
    """Values by text up to a number of bytes; beyond it, the least recently used goes first.

    A training asks for the same texts in every epoch. One that goes through a large run once, or a server, asks for
    ever new ones.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        """Begin empty.

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
        """Return the value of a text, None if there is none."""
        value = self._values.pop(text, None)
        if value is not None:
            self._values[text] = value
        return value

    def put(self, text: str, value: Value) -> None:
        """Keep a value, replacing an earlier one of that text, and drop old values until there is room."""
        self._drop(text)
        self._values[text] = value
        self._num_bytes += self._size_of(value)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def _drop(self, text: str) -> None:
        value = self._values.pop(text, None)
        if value is not None:
            self._num_bytes -= self._size_of(value)
