"""The sums of a run."""

from __future__ import annotations

from pseudoris.pipeline.run_contract import RunSummary, table_globs
from pseudoris.store.runs.totals import RunTotals


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
