"""The sums of a run."""

from __future__ import annotations

from pipeline.summary import RunSummary, RunTotals, Totals, table_globs
from schemas.run import PartRecord, Receipt, ShardCounts
from schemas.tables import SCHEMAS


def receipt(shard: int = 0, reasons: dict[str, int] | None = None, **seconds: float) -> Receipt:
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
        output_bytes=80,
        reasons={"corrupt": 3, "missing": 2},
        seconds={"read": 0.75, "propose": 2.0},
    )
    assert list(totals.sum().reasons) == ["corrupt", "missing"]


def test_no_receipt_is_a_sum_of_nothing():
    assert Totals().sum() == RunTotals()


def summary(**values) -> RunSummary:
    defaults = {"out": "out", "totals": RunTotals(shards=2), "num_planned_images": 8, "num_planned_shards": 2}
    rest = {"num_shards_before": 0, "num_images_now": 8, "wall_s": 4.0, "tables": {}}
    return RunSummary(**{**defaults, **rest, **values})


def test_a_run_is_complete_when_every_planned_shard_is_committed():
    assert summary().is_complete
    assert not summary(num_planned_shards=3).is_complete


def test_speed_counts_what_this_start_did():
    assert summary().images_per_second == 2.0
    assert summary(num_images_now=0, wall_s=0.0).images_per_second == 0.0


def test_the_expressions_come_first_among_the_tables():
    globs = table_globs(lambda path: f"s3://b/run/{path}")
    assert list(globs) == ["expressions", "images", "masks", "failures"]
    assert globs["masks"] == "s3://b/run/masks/*.parquet"
