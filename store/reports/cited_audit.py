"""`OUT/_audit.json`: the audit that the run's data card cites. No table and no other record changes."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from pseudoris.schemas.audit_records import CITATION_VERSION, CitedAudit
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.root_digest import RootDigest
from pseudoris.store.runs.seals import read_version, sealed

CITATION_NAME: Final = "_audit.json"
_REMEDY: Final = "Delete the file, and cite the audit again: `pseudoris audit report AUDIT --cite`"


def root_of(location: RunLocation) -> str:
    """Return the root digest of a run's present state.

    Raises:
        ConfigError: There is no run, or its records cannot be used.
        TransientError: Storage failed.
    """
    digest = RootDigest(require_header(location))
    for receipt in cached_receipts(location):
        digest.add(receipt)
    return digest.hexdigest()


def write_citation(location: RunLocation, cited: CitedAudit) -> None:
    """Write the record; it replaces that of an earlier audit. The next data card cites it.

    Raises:
        ConfigError: The run cannot be written.
        TransientError: Storage failed.
    """
    location.replace(CITATION_NAME, sealed(cited)[1])


def read_citation(location: RunLocation) -> CitedAudit | None:
    """Return the audit that a run cites; None if it cites none.

    Raises:
        ConfigError: The record was changed, or a later version of the package wrote it.
        TransientError: Storage failed.
    """
    try:
        data = location.read_bytes(CITATION_NAME)
    except FileNotFoundError:
        return None
    uri = location.uri(CITATION_NAME)
    try:
        read_version(data, uri, newest=CITATION_VERSION, remedy=_REMEDY)
        return CitedAudit.model_validate_json(data)
    except (ValueError, ValidationError):
        raise ConfigError(f"{uri} is not the record of an audit. {_REMEDY}") from None
