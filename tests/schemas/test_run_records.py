"""Headers and receipts refuse what does not add up, and identities name their differences."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import AuditRecord, Identity, PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.location import RunLocation
from tests.builders.scored_runs import begin

PART = PartRecord(name="p", rows=0, size_bytes=1, sha256="0" * 64)
COUNTS = ShardCounts(
    images=2, annotated=1, empty=0, quarantined=1, masks=3, expressions=9, samples=20, kept=4, kept_lone=0
)


def identity(**changed):
    values = {"method": {"compute": {"seed": 0}}, "weights": {"propose": "a"}, "device_kind": "cpu", "versions": {}}
    return Identity(**{**values, **changed})


def test_each_difference_names_its_key_and_both_values():
    other = identity(method={"compute": {"seed": 1}}, device_kind="NVIDIA H200", versions={"torch": "3"})
    assert identity().differences(other) == [
        "device_kind: 'cpu' in the run, 'NVIDIA H200' now",
        "compute.seed: 0 in the run, 1 now",
        "versions: {} in the run, 'absent' now",
        "versions.torch: 'absent' in the run, '3' now",
    ]


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(ValidationError, match="2 images, but 1 are annotated, empty or quarantined"):
        ShardCounts.model_validate({**COUNTS.model_dump(), "quarantined": 0})


def test_a_receipt_names_a_part_of_every_table():
    assert Receipt(shard=0, generation=0, parts=dict.fromkeys(SCHEMAS, PART), counts=COUNTS).num_repeats == 0
    with pytest.raises(ValidationError, match="names one part of each of"):
        Receipt(shard=0, generation=0, parts={"images": PART}, counts=COUNTS)


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
    assert header.section("audits", AuditRecord) is None
    section = RECORD.model_dump(mode="json")
    assert header.model_copy(update={"audits": section}).section("audits", AuditRecord) == RECORD
    with pytest.raises(ConfigError, match="see novel: use the version"):
        header.model_copy(update={"audits": {**section, "novel": 1}}).section("audits", AuditRecord)
