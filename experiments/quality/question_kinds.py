"""Kinds of questions: what singles the object out."""

from __future__ import annotations

from typing import Final

from pseudoris.synthworld.references import NamedObject, parse_reference

# Words alone; a place in the picture or in a row; a relation to another object.
KINDS: Final = ("attribute", "position", "relation")
ALL_KINDS: Final = ("all", *KINDS, "unread")


def kind_of(text: str) -> str:
    """Return one of `KINDS`, or `unread` if the grammar cannot read the text."""
    reference = parse_reference(text)
    if reference is None:
        return "unread"
    if not isinstance(reference, NamedObject):
        return "position"
    if reference.relation is not None:
        return "relation"
    return "attribute" if reference.noun.position is None else "position"
