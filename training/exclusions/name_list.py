"""A text file of names or COCO ids, one a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.regular_files import read_regular
from pseudoris.store.files.storage_errors import storage_errors
from pseudoris.store.sources.exclusions import Exclusions, exclusion, name_value

_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


def read_name_list(path: Path) -> Exclusions:
    """Return one rule: the names and ids of the lines. Empty lines and lines that begin with # are left out.

    Raises:
        ConfigError: A line is no name, or there is none. The message names the line.
        TransientError: Storage failed.
    """
    with storage_errors("read", str(path)):
        data = read_regular(path)
    values = {name_value(line) for number, line in _lines(path, data) if _is_name(path, number, line)}
    if not values:
        raise ConfigError(f"{path} lists nothing. Write a file name or a COCO id on each line.")
    return exclusion("names", path.name, values, files={path.name: sha256_hex(data)})


def _lines(path: Path, data: bytes) -> list[tuple[int, str]]:
    lines = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise _wrong(path, number, "is not UTF-8", "Write names as UTF-8 text; give images as a folder") from None
        if text and not text.startswith("#"):
            lines.append((number, text))
    return lines


def _is_name(path: Path, number: int, line: str) -> bool:
    if not line.isprintable():
        raise _wrong(
            path, number, f"has the control characters of {line[:60]!r}", "Write one name a line, nothing else"
        )
    if _DIGEST.fullmatch(line):
        raise _wrong(path, number, f"is the sha256 {line}", "Put digests into a .csv with the column sha256")
    if not line.replace("\\", "/").strip("/"):
        raise _wrong(path, number, f"is {line!r}, not a name", "Write the name of a file, or a COCO id")
    return True


def _wrong(path: Path, number: int, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"{path}: line {number} {what}. {remedy}.")
