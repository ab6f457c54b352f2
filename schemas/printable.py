"""Untrusted text (names, captions, messages) for terminals, pages and JSON: control characters are spelled.

A terminal obeys them: it sets its title, overwrites lines. Signs that turn the direction of writing show another name
than the one that is meant, on a page as well.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Final

# Control characters, signs of direction and the like, lone surrogates (which no terminal can be sent), line ends.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """Return a text with control characters spelled out in ASCII; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or not _is_control(letter) else spelled(letter) for letter in text)


def spelled(letter: str) -> str:
    """Return a letter as its escape, in ASCII."""
    return letter.encode("unicode_escape").decode("ascii")


def printable_json(value: object, *, ensure_ascii: bool = False, **options: Any) -> str:
    """Return `json.dumps` of a value, in which control characters are JSON's escapes; it is read as the same value."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, **options)
    if text.isprintable():
        return text
    return "".join(json.dumps(letter)[1:-1] if letter != "\n" and _is_control(letter) else letter for letter in text)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL_CATEGORIES


def visible(value: object) -> object:
    """Return text as `printable` does, and markup and other values as they are: jinja's `finalize`, for any template.

    Titles, `alt` and other attributes pass it as well as the text of elements.
    """
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
