"""Reads YAML with bounds: text of a few bytes may nest deeper, or stand for more values, than a process survives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

# The presets have 4 levels and 200 values. The parser, the merge and the validation recurse: they end near 200 levels.
MAX_LEVELS: Final = 64
# Values after every alias is replaced by what it stands for, as the configuration is written to the run.
MAX_VALUES: Final = 50_000
MAX_LETTERS: Final = 4 * 2**20


class YamlRefusedError(yaml.YAMLError):
    """The text is beyond the bounds, or holds a value that YAML's types cannot take."""


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, or `YamlRefusedError`.
    """
    if len(text) > MAX_LETTERS:
        raise YamlRefusedError(f"it has more than {MAX_LETTERS:,} letters: give a smaller file")
    _check_bounds(text)
    try:
        return yaml.safe_load(text)
    except (ValueError, OverflowError) as error:
        # Of YAML's own types, such as the date 2020-13-45.
        raise YamlRefusedError(f"{error}; quote a value that is text") from error


def _check_bounds(text: str) -> None:
    """Refuse what is too deep or too large, from the parser's events: nothing is built from them."""
    num_values = 0
    # Each open list or mapping: its anchor, and the values before it.
    opened: list[tuple[str | None, int]] = []
    # Values that an anchor stands for; absent while they are still being read.
    values_of: dict[str | None, int] = {}
    for event in _events(text):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise YamlRefusedError(f"the alias *{event.anchor} stands for itself: write the value out")
            num_values += values_of.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            num_values += 1
            values_of[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, num_values))
            num_values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, num_before = opened.pop()
            values_of[anchor] = num_values - num_before
        if len(opened) > MAX_LEVELS:
            raise _too_deep(event.start_mark)
        if num_values > MAX_VALUES:
            raise YamlRefusedError(
                f"it has more than {MAX_VALUES:,} values, aliases (*name) written out: give fewer, or remove aliases"
            )


def _events(text: str) -> Iterator[Any]:
    """Yield the events up to the first fault, which the loader reports; libyaml's are there in a tenth of the time."""
    try:
        yield from yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        # libyaml of PyYAML 6.0.4 looks ahead, and stops at 1,000 brackets before it has told of the first.
        if "nesting depth" in str(error.problem):
            raise _too_deep(error.problem_mark) from None
    except yaml.YAMLError:
        return


def _too_deep(mark: Any) -> YamlRefusedError:
    return YamlRefusedError(
        f"values are nested more than {MAX_LEVELS} levels deep in line {mark.line + 1}: remove the extra brackets or "
        "indents"
    )
