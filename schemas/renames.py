"""Keys and values of the configuration that were renamed: the old words are read in headers and refused from users.

A header keeps the words that it was written with, in its configuration and in its identity. They are translated when
they are read or compared, never on storage. Digests of settings are taken in the first words, so a rename changes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Rename:
    """A key that was renamed, in its section.

    Attributes:
        section: Dotted path of the section that has the key.
        old: The key's first name.
        new: Its present name.
        values: The present word by the first one, of the values that were renamed too; other values stay.
    """

    section: str
    old: str
    new: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def old_key(self) -> str:
        """Dotted path that the key had."""
        return f"{self.section}.{self.old}"

    @property
    def new_key(self) -> str:
        """Dotted path that the key has."""
        return f"{self.section}.{self.new}"


# After version 0.2.
RENAMES: Final = (
    Rename("captions.listening", "others_max", "max_others"),
    Rename("captions.sampling", "others_max", "max_others"),
    Rename("captions.sampling", "over_max", "above_max_others", {"own": "no_contrast"}),
    Rename("filtering", "min_score", "min_cosine"),
)


def in_present_words(tree: Any) -> Any:
    """Return a configuration or a method of a header with the present words; anything but a mapping as it is.

    Where a section has both words of a key it stays as it is, and is refused when it is validated.
    """
    return _translated(tree, {(each.section, each.old): (each.new, dict(each.values)) for each in RENAMES})


def in_first_words(tree: Any) -> Any:
    """Return a serialised configuration or method with the first words, in which digests are taken."""
    words = {(each.section, each.new): (each.old, {new: old for old, new in each.values.items()}) for each in RENAMES}
    return _translated(tree, words)


def renamed(key: str, value: object) -> str | None:
    """Return what a key and its value are called now, as `old is now called new`; None if neither was renamed."""
    for each in RENAMES:
        word = each.values.get(value) if isinstance(value, str) else None
        if key == each.old_key:
            return f"{key} is now called {each.new_key}" + (f", and its value {value} is now {word}" if word else "")
        if key == each.new_key and word:
            return f"{key}: the value {value} is now called {word}"
    return None


def _translated(tree: Any, words: Mapping[tuple[str, str], tuple[str, Mapping[str, str]]], section: str = "") -> Any:
    if not isinstance(tree, Mapping):
        return tree
    found: dict[Any, Any] = {}
    for key, value in tree.items():
        name, values = words.get((section, key), (key, {}))
        if name != key and name in tree:
            name, values = key, {}
        if isinstance(value, str):
            found[name] = values.get(value, value)
        else:
            found[name] = _translated(value, words, f"{section}.{key}" if section else str(key))
    return found
