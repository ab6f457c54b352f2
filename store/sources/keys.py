"""Keys: percent-encoded names of images relative to SOURCE, which hold any name that a file system allows."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_to_bytes

# `quote` encodes both, so they stand in a key as separators alone.
_MEMBER: Final = "!"
_ROW: Final = "#"


def path_key(path: str) -> str:
    """Return the key of a path: its bytes percent-encoded, `/` kept; a name that is not UTF-8 survives."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def member_key(tar_path: str, member: str) -> str:
    """Return the key of a tar's member, `tar!member`; the member's name never becomes a path."""
    return f"{path_key(tar_path)}{_MEMBER}{path_key(member)}"


def row_key(table_path: str, row: int) -> str:
    """Return the key of a Parquet file's row, `file#row`, rows counted from 0 over the whole file."""
    return f"{path_key(table_path)}{_ROW}{row}"


def file_of(key: str) -> str:
    """Return the key of the file that holds the image: the file itself, its tar, or its table."""
    return key.partition(_MEMBER)[0].partition(_ROW)[0]


def file_path(key: str) -> str:
    """Return the path of the file that holds the image."""
    return unquote_to_bytes(file_of(key)).decode("utf-8", "surrogateescape")
