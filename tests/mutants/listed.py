"""All mutants, one file a room: broken file, then the test that must fail, then each break by its name.

    training/metrics.py:
      tests/training/test_metrics.py::test_hand_values:
        an IoU at the threshold passes: {old: "_mean(ious > at)", new: "_mean(ious >= at)"}

They break the exact rows of docs/records/conformance.md, the commit path, and the guards of SECURITY.md and the audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, TypeAdapter


@dataclass(frozen=True, slots=True)
class Mutant:
    """A text that stands once in a file, replaced by another one; its tests must fail, unless it is unobservable."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    unobservable: str = ""

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]

    def applied(self, text: str) -> str:
        """Return the file's text with the break.

        Raises:
            ValueError: The old text does not stand there once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text stands {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)


class Change(BaseModel, extra="forbid"):
    """What stands under a mutant's name; the words are those of `Mutant`."""

    old: str
    new: str
    unobservable: str = ""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice: the first one's mutants would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_ROOM: Final = TypeAdapter(dict[str, dict[str, dict[str, Change]]])


def read_mutants(text: str) -> list[Mutant]:
    """Return the mutants of a room's file.

    Raises:
        pydantic.ValidationError: A word is unknown, missing or no text; the message holds file, test and name.
        yaml.YAMLError: It is not YAML, or a key stands twice.
    """
    return [
        Mutant(name, file, change.old, change.new, (test,), change.unobservable)
        for file, tests in _ROOM.validate_python(yaml.load(text, _UniqueKeys)).items()
        for test, changes in tests.items()
        for name, change in changes.items()
    ]


MUTANTS: Final = tuple(
    mutant
    for path in sorted(Path(__file__).parent.glob("*.yaml"))
    for mutant in read_mutants(path.read_text(encoding="utf-8"))
)
