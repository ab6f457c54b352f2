"""How an expression is written in the tables, whoever wrote it."""

from __future__ import annotations


def clean_text(text: str) -> str:
    """Return `text` lower-cased, white space collapsed, without a trailing full stop; "" where nothing is left."""
    return " ".join(text.lower().split()).rstrip(". ")
