"""Reads YAML within bounds, because a small file can exhaust memory. Called by `schemas`."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import yaml

from pseudoris.primitives.untrusted import MAX_BITS

# A file has at most this many levels; presets have 4. Parser, merge and validation recurse, and fail near 200 levels.
MAX_LEVELS: Final = 64
# A file has at most this many values, counted with aliases replaced, as the run stores them. Presets have 200.
MAX_VALUES: Final = 50_000
MAX_LETTERS: Final = 4 * 2**20
# A number has at most this many letters. 64 binary digits with a sign and a prefix take 67.
_MAX_DIGITS: Final = 100
_SHOWN_LETTERS: Final = 24


class YamlRefusedError(yaml.YAMLError):
    """The text is beyond the bounds, or holds a value that YAML's types cannot take."""


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, or `YamlRefusedError`.
    """
    if len(text) > MAX_LETTERS:
        raise YamlRefusedError(f"it has more than {MAX_LETTERS:,} letters: give a smaller file")
    try:
        return yaml.load(text, _Loader)  # a safe loader, which also bounds numbers
    except (ValueError, OverflowError) as error:
        # YAML parses values such as dates itself, and fails on 2020-13-45, which is no date.
        raise YamlRefusedError(f"{error}; quote a value that is text") from error


def fault_of(error: Exception) -> str:
    """Return the problem and its line alone: an error's own text quotes lines, with possible secrets."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Refuses YAML that is too deep or large, repeated keys, and numbers that JSON cannot hold: runs store JSON."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = self._num_values = 0
        # Holds the number of values below each node. A node that is still being read is absent.
        self._values_of: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node, read within the bounds; nothing is built from it yet."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's own
        before, mark = self._num_values, event.start_mark
        if isinstance(event, yaml.CollectionStartEvent) and self._level == MAX_LEVELS:
            raise YamlRefusedError(
                f"values are nested more than {MAX_LEVELS} levels deep in line {mark.line + 1}: remove the "
                "extra brackets or indents"
            )
        self._level += 1
        node: Any = super().compose_node(parent, index)
        self._level -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._num_values += 1
            self._values_of[id(node)] = self._num_values - before
        elif id(node) in self._values_of:
            self._num_values += self._values_of[id(node)]
        else:
            raise YamlRefusedError(f"the alias *{event.anchor} stands for itself: write the value out")
        if self._num_values > MAX_VALUES:
            raise YamlRefusedError(
                f"it has more than {MAX_VALUES:,} values, aliases (*name) written out: give fewer, or remove aliases"
            )
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the values by key; of equal ones, PyYAML keeps the last in silence."""
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((name for name, number in names.items() if number > 1), None):
            shown = f"the key {twice[:_SHOWN_LETTERS]} stands twice in the mapping of line {node.start_mark.line + 1}"
            raise YamlRefusedError(f"{shown}: keep one of both")
        return super().construct_mapping(node, deep)


def _whole(loader: yaml.SafeLoader, node: Any) -> int:
    _refuse_base_60(node)
    value: int | None = loader.construct_yaml_int(node) if len(node.value) <= _MAX_DIGITS else None
    if value is None or value.bit_length() > MAX_BITS:
        raise YamlRefusedError(f"{_place(node)} has more than {MAX_BITS} bits; quote a value that is text")
    return value


def _finite(loader: yaml.SafeLoader, node: Any) -> float:
    _refuse_base_60(node)
    value: float = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise YamlRefusedError(f"{_place(node)} is not finite: give another, or quote a value that is text")
    return value


def _refuse_base_60(node: Any) -> None:
    """Refuse 1:30:00, which YAML 1.1 takes for 5,400."""
    if ":" in node.value:
        raise YamlRefusedError(f"{_place(node)} is in base 60: write it out, or quote a value that is text")


def _place(node: Any) -> str:
    return f"the number {node.value[:_SHOWN_LETTERS]} in line {node.start_mark.line + 1}"


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _finite)
