"""A frozen bank of texts that the composer draws easy absences from, as `composing.bank` names it.

The file has one text a line. It is read once, when a config is resolved. A run's header holds the texts, so nothing
that continues or reads a run opens the file.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.fitted import NamedFile, read_named
from pseudoris.schemas.shard import clean_text

# Texts of a bank stand in the header of every run, which each command parses.
MAX_TEXTS: Final = 5_000
_REMEDY: Final = "name a file with one text a line, such as `the red boat`"


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextBank:
    """The content of the file.

    Attributes:
        texts: Its lines, as `clean_text` returns them, each once. Lines that are no noun phrase are never drawn.
    """

    texts: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=MAX_TEXTS)]


class TextBankConfig(NamedFile):
    """A file of texts. Its digest is part of the run's identity."""

    values: TextBank


def read_bank(uri: str, sha256: object = None) -> dict[str, Any]:
    """Return the tree of a `TextBankConfig`, not validated: the file's digest and its texts.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, holds no text or too many, or has another digest.
    """
    data, digest = read_named("composing.bank", uri, sha256, _REMEDY)
    try:
        lines = [clean_text(line) for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise ConfigError(f"composing.bank: {uri} is not UTF-8: {_REMEDY}") from None
    texts = list(dict.fromkeys(line for line in lines if line))
    if not 0 < len(texts) <= MAX_TEXTS:
        raise ConfigError(f"composing.bank: {uri} holds {len(texts)} texts, and 1 to {MAX_TEXTS} are allowed")
    return {"uri": uri, "sha256": digest, "values": {"texts": texts}}
