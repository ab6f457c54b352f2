"""The section `audits` of a header."""

from __future__ import annotations

import pytest

from pseudoris.schemas.audit_records import AuditRecord, audit_of
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.builders.scored_runs import begin

RECORD = AuditRecord(
    draw="a" * 64,
    run_root="b" * 64,
    raters=1,
    verdicts=120,
    target=0.9,
    rule="confidence > 0.6",
    accuracy=0.95,
    at_least=0.91,
)


def test_a_header_gives_its_audit_back_and_refuses_what_a_later_version_wrote(tmp_path):
    header = begin(RunLocation.open(str(tmp_path)))
    assert audit_of(header) is None
    section = RECORD.model_dump(mode="json")
    assert audit_of(header.model_copy(update={"audits": section})) == RECORD
    with pytest.raises(ConfigError, match="see novel: use the version"):
        audit_of(header.model_copy(update={"audits": {**section, "novel": 1}}))
