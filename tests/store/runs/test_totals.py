"""Receipts add up."""

from __future__ import annotations

from pseudoris.schemas.run_records import PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.receipts import RunTotals, Totals


def receipt(shard: int = 0, reasons: dict[str, int] | None = None, kept_lone: int = 1, **seconds: float) -> Receipt:
    quarantined = sum((reasons or {}).values())
    part = PartRecord(name="part", rows=1, size_bytes=10, sha256="0" * 64)
    counts = ShardCounts(
        images=3 + quarantined,
        annotated=2,
        empty=1,
        quarantined=quarantined,
        masks=4,
        expressions=5,
        samples=6,
        kept=2,
        kept_lone=kept_lone,
        reasons=reasons or {},
    )
    return Receipt(shard=shard, generation=0, parts=dict.fromkeys(SCHEMAS, part), counts=counts, seconds=seconds)


def test_receipts_add_up():
    totals = Totals()
    totals.add(receipt(0, {"corrupt": 1}, read=0.5, propose=2.0))
    totals.add(receipt(1, {"missing": 2, "corrupt": 2}, read=0.25))
    assert totals.sum() == RunTotals(
        shards=2,
        images=11,
        annotated=4,
        empty=2,
        quarantined=5,
        masks=8,
        samples=12,
        expressions=10,
        kept=4,
        kept_lone=2,
        output_bytes=80,
        reasons={"corrupt": 3, "missing": 2},
        seconds={"read": 0.75, "propose": 2.0},
    )
    assert list(totals.sum().reasons) == ["corrupt", "missing"]


def test_no_receipt_is_a_sum_of_nothing():
    assert Totals().sum() == RunTotals()
