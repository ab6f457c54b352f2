"""Headers and receipts refuse what does not add up, and identities name their differences."""

import pytest
from pydantic import ValidationError

from pseudoris.schemas.run_records import Identity, PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS

PART = PartRecord(name="p", rows=0, size_bytes=1, sha256="0" * 64)
COUNTS = ShardCounts(
    images=2, annotated=1, empty=0, quarantined=1, masks=3, expressions=9, samples=20, kept=4, kept_lone=0
)


def identity(**changed):
    values = {"method": {"compute": {"seed": 0}}, "weights": {"propose": "a"}, "device_kind": "cpu", "versions": {}}
    return Identity(**{**values, **changed})


def test_equal_identities_have_no_differences():
    assert identity().differences(identity()) == []


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
