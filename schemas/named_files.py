"""Reads the files that settings name, such as the text bank of `composing.bank`. Called by other modules of `schemas`.

A file is read once, when a config is resolved. A run's header holds its content: no reader of the run opens the file.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_linked
from pseudoris.primitives.uris import BUILTIN_PREFIX
from pseudoris.primitives.yaml_text import MAX_LETTERS
from pseudoris.schemas.frozen import FrozenModel, Sha256
from pseudoris.schemas.shard import clean_text

# A text bank has at most this many texts, because the header stores them, and each command parses the header.
MAX_TEXTS: Final = 5_000
MAX_TEXT_LETTERS: Final = 200
# Matches text that is not English: letters that are not Latin, or an article of another language at the start.
_FOREIGN: Final = re.compile(
    r".*[^\W\d\u0000-\u024f]|(?:der|die|das|eine?|le|la|les|une?|el|los|las|una|il|gli|uno|uma?|het|een|ett) ",
    re.IGNORECASE,
)
_BANK_REMEDY: Final = "name a file with one text a line, such as `the red boat`"


class NamedFile(FrozenModel):
    """A file that a setting names; what it held when the config was resolved stands beside it. Opens no file."""

    # The uri is a local path, or `builtin:<file>` for a file that is shipped beside the presets.
    uri: str = Field(min_length=1)
    # A file with another sha256 is refused. If none is given, it is computed.
    sha256: Sha256


def read_named(key: str, uri: str, sha256: object, remedy: str) -> tuple[bytes, str]:
    """Return the content and digest of a file that a setting names: a local path, or `builtin:<file>`.

    Raises:
        ConfigError: It cannot be read, which `remedy` ends, or has another digest than `sha256`; `key` is named.
    """
    path = resources.files("pseudoris.schemas") / "presets" / uri.removeprefix(BUILTIN_PREFIX)
    try:
        with open_linked(Path(str(path) if uri.startswith(BUILTIN_PREFIX) else uri)) as file:
            data = file.read(MAX_LETTERS + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}: uri {uri!r} cannot be read ({reason}): {remedy}") from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, digest):
        raise ConfigError(
            f"{key}: {uri} has the sha256 {digest}, expected {sha256}: restore the file, or leave sha256 out to accept "
            "any"
        )
    return data, digest


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextBank:
    """The content of a file of one text per line, which `composing.bank` names: easy absences are drawn from it.

    Attributes:
        texts: Its lines, as `clean_text` returns them, each once. Lines that are no noun phrase are never drawn.
    """

    texts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LETTERS)], ...], Field(max_length=MAX_TEXTS)
    ]


class TextBankConfig(NamedFile):
    """A file of texts. Its digest is part of the run's identity."""

    values: TextBank


def read_bank(uri: str, sha256: object = None) -> dict[str, Any]:
    """Return the tree of a `TextBankConfig`, not validated: the file's digest and its texts.

    Raises:
        ConfigError: The file or a line of it cannot be read, it holds no text or too many, or has another digest.
    """
    data, digest = read_named("composing.bank", uri, sha256, _BANK_REMEDY)
    found = dict[str, None]()
    for number, line in enumerate(data.splitlines(), start=1):
        text = line.decode(errors="surrogateescape")
        categories = {unicodedata.category(letter) for letter in text if letter != "\t"}
        faults = {
            "is not UTF-8": "Cs" in categories,
            "holds a control character": "Cc" in categories,
            f"has more than {MAX_TEXT_LETTERS} letters": len(clean_text(text)) > MAX_TEXT_LETTERS,
            "is not in English": _FOREIGN.match(text) is not None,
        }
        if fault := next((fault for fault, is_found in faults.items() if is_found), ""):
            raise ConfigError(f"composing.bank: {uri}, line {number} {fault}: {_BANK_REMEDY}")
        found[clean_text(text)] = None
    texts = [text for text in found if text]
    if not 0 < len(texts) <= MAX_TEXTS:
        raise ConfigError(f"composing.bank: {uri} holds {len(texts)} texts, and 1 to {MAX_TEXTS} are allowed")
    return {"uri": uri, "sha256": digest, "values": {"texts": texts}}
