"""The digest that a JSON record carries of its own bytes: a change after the record was written is found.

It detects accidents. Against a person who writes a matching digest, compare the run's root digest
(`pseudoris.store.runs.root_digest`).
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

from pseudoris.schemas.errors import ConfigError, refuse_other_version
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.run_records import RECORDS_VERSION, SealedRecord

_Record = TypeVar("_Record", bound=SealedRecord)

_SEAL: Final = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n\}\Z')


def sealed(record: _Record) -> tuple[_Record, bytes]:
    """Return the record with its digest, and the bytes of its file.

    The digest covers every byte of the file without its last field, so that it does not depend on how a later version
    writes JSON.
    """
    content = record.model_dump_json(indent=2, exclude={"sha256"}).encode()
    digest = sha256_hex(content)
    data = content.removesuffix(b"\n}") + f',\n  "sha256": "{digest}"\n}}'.encode()
    return record.model_copy(update={"sha256": digest}), data


def check_record(data: bytes, uri: str, *, remedy: str, again: str = "annotate again") -> None:
    """Accept the bytes of a record that is of this version and as it was written.

    Args:
        data: Bytes of the file.
        uri: Its address, for errors.
        remedy: What to do about a record that was changed.
        again: How to make one of another version anew.

    Raises:
        ValueError: It is not a record.
        ConfigError: It was changed after it was written, or another version of the package wrote it.
    """
    seal = _SEAL.search(data)
    if seal is not None and sha256_hex(data[: seal.start()] + b"\n}") != seal[1].decode():
        raise ConfigError(f"{uri} was changed after it was written: its sha256 is not the one that it names. {remedy}")
    try:
        version = parse_json(data)["version"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{uri} is not a record") from None
    # Before the fields: those of another version would only show as unknown keys.
    refuse_other_version(uri, version, RECORDS_VERSION, again=again)
    if seal is None:
        raise ConfigError(f"{uri} was changed after it was written: its sha256 is missing or misplaced. {remedy}")
