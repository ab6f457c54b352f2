"""The sample, the arithmetic on its receipts, and a sample that is really run."""

from __future__ import annotations

import tempfile
from collections import Counter

import pytest

from pseudoris.pipeline.sample_estimate import RunEstimate, draw_sample, estimate, summarise, unit_seconds
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.run_records import PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusion_rules import exclusion
from pseudoris.store.runs.plan import PlanTally
from pseudoris.store.sources.items import SourceItem
from pseudoris.store.tables.shard_tables import table_bytes
from tests.builders.runs import stub_config, write_source


def items(count: int) -> list[SourceItem]:
    return [SourceItem(key=f"{number:04d}.jpg", size_bytes=10) for number in range(count)]


def test_a_sample_is_a_part_of_the_listing_in_its_order_and_the_same_every_time():
    sample, tally = draw_sample(items(500), stub_config(), size=40, seed=3)
    keys = [item.key for item in sample]
    assert len(set(keys)) == 40
    assert keys == sorted(keys)
    assert tally.num_images == 500
    assert draw_sample(items(500), stub_config(), size=40, seed=3)[0] == sample
    assert draw_sample(items(500), stub_config(), size=40, seed=4)[0] != sample


def test_an_image_at_the_end_of_the_listing_may_be_left_out():
    drawn = {draw_sample(items(2), stub_config(), size=1, seed=seed)[0][0].key for seed in range(40)}
    assert drawn == {"0000.jpg", "0001.jpg"}


@pytest.mark.slow
def test_every_image_is_as_likely_as_any_other():
    counts = Counter(
        item.key for seed in range(600) for item in draw_sample(items(50), stub_config(), size=10, seed=seed)[0]
    )
    assert len(counts) == 50
    # 600 draws at 1/5: 120 expected, 9.8 the standard deviation; five of them on both sides.
    assert min(counts.values()) > 70
    assert max(counts.values()) < 170


def test_a_small_source_is_taken_whole_and_a_repeated_key_once():
    sample, tally = draw_sample([each for item in items(3) for each in (item, item)], stub_config(), size=10, seed=0)
    assert [item.key for item in sample] == [item.key for item in items(3)]
    assert (tally.num_images, tally.num_repeated) == (3, 3)


@pytest.mark.ray
def test_a_sample_is_run_for_real_and_leaves_nothing(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    source = write_source(tmp_path / "in", num_images=37)
    before = sorted(path for path in source.rglob("*"))
    seen = []
    config = stub_config("masks.options={sleep_s: 0.05}", "shards.max_images=8")
    excluded = exclusion("names", "bench", [f"image-{number:03d}.png" for number in range(3)])
    found = estimate(
        str(source), config, size=24, exclusions=excluded, on_progress=lambda done, total: seen.append((done, total))
    )
    # Three others are excluded by name, and counted apart.
    assert (found.num_images, found.num_excluded) == (37, 3)
    assert (found.num_shards, found.num_sampled) == (5, 24)
    assert found.num_sample_shards == 12
    assert seen[-1] == (24, 24)
    # The stub sleeps 0.05 s for each image that is not in quarantine: no actor does more than 20 a second or so.
    assert 5 < found.images_per_s.value < 30
    assert found.images_per_s.low <= found.images_per_s.value <= found.images_per_s.high
    assert found.hours.value == pytest.approx(found.unit_hours.value)
    assert found.load_s > 0
    assert not list((tmp_path / "tmp").iterdir())
    assert sorted(path for path in source.rglob("*")) == before


@pytest.mark.ray
@pytest.mark.long
def test_a_named_scratch_is_left_as_it_was_also_after_an_error(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=4)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "mine.txt").write_text("mine")
    estimate(str(source), stub_config(), size=4, scratch=str(scratch))
    assert [path.name for path in scratch.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="the stub was told to fail"):
        estimate(str(source), stub_config("masks.options={fault: config}"), size=4, scratch=str(scratch))
    assert [path.name for path in scratch.iterdir()] == ["mine.txt"]


FIXED_BYTES = sum(len(table_bytes(schema.empty_table())) for schema in SCHEMAS.values())


def receipt(shard: int, *, seconds: float = 5.0) -> Receipt:
    """Return that of ten images, one in quarantine, of 4,000 bytes beyond those of empty tables."""
    parts = {
        table: PartRecord(name=f"{shard}", rows=0, size_bytes=size, sha256="0" * 64)
        for table, size in zip(SCHEMAS, [FIXED_BYTES + 4_000, 0, 0, 0], strict=True)
    }
    none = {name: 0 for name, each in ShardCounts.model_fields.items() if each.is_required()}
    counts = ShardCounts(**{**none, "images": 10, "annotated": 9, "quarantined": 1})
    stages = {"read": 100.0, "propose": 0.2 * seconds, "caption": 0.7 * seconds, "filter": 0.1 * seconds}
    return Receipt(shard=shard, generation=0, parts=parts, counts=counts, seconds=stages)


def summed(receipts, config=None, *, actors=None, num_gpus=None) -> RunEstimate:
    """Return the estimate for a million images in 4,000 shards."""
    tally = PlanTally(1_000_000, 4_000)
    return summarise(tally, receipts, config or stub_config(), actors=actors or {"fused": 2}, num_gpus=num_gpus)


def test_equal_shards_give_exact_figures():
    found = summed([receipt(shard) for shard in range(16)])
    assert found.images_per_s.value == pytest.approx(2.0)
    assert (found.images_per_s.low, found.images_per_s.high) == pytest.approx((2.0, 2.0))
    assert found.unit_hours.value == pytest.approx(1_000_000 / 2.0 / 3_600)
    assert found.hours.value == pytest.approx(found.unit_hours.value / 2)
    assert found.output_bytes.value == pytest.approx(1_000_000 * 400 + 4_000 * FIXED_BYTES)
    assert found.quarantined.value == pytest.approx(0.1)
    assert (found.unit, found.num_units) == ("CPU actor", 2.0)
    assert found.stage_seconds["read"] == pytest.approx(10.0)


def test_an_actors_first_shard_warms_up_and_is_left_out_of_the_speed_where_enough_are_left():
    slow = [receipt(0, seconds=500.0), receipt(1, seconds=500.0)]
    found = summed([*slow, *(receipt(shard) for shard in range(2, 16))])
    assert found.images_per_s.value == pytest.approx(2.0)
    assert found.num_warming_shards == 2
    assert found.num_sampled == 160
    assert summed(slow).num_warming_shards == 0
    # Each actor of the larger pool warms up.
    staged = summed([*slow, *slow, *(receipt(shard) for shard in range(4, 16))], actors={"propose": 1, "fused": 4})
    assert (staged.num_warming_shards, staged.images_per_s.value) == (4, pytest.approx(2.0))


def test_on_gpus_the_time_counts_by_the_share_that_a_pool_holds():
    assignments = ["compute.device=cuda", "placement.fused.num_gpus=0.5"]
    config = load_config("tiny", None, assignments)
    assert unit_seconds({"propose": 2.0, "caption": 4.0, "read": 50.0}, config) == pytest.approx(3.0)
    found = summed([receipt(shard) for shard in range(16)], config, actors={"fused": 4}, num_gpus=100)
    assert (found.unit, found.num_units) == ("GPU", 100)
    assert found.images_per_s.value == pytest.approx(4.0)
    assert found.hours.value == pytest.approx(1_000_000 / 4.0 / 3_600 / 100)


def test_of_staged_pools_the_one_that_takes_longest_decides():
    config = stub_config("placement.mode=staged")
    receipts = [receipt(shard) for shard in range(16)]
    found = summed(receipts, config, actors={"propose": 1, "caption": 7, "filter": 1})
    # Propose: 1 s a shard of ten and one actor; caption: 3.5 s and seven.
    assert found.hours.value == pytest.approx(1_000_000 / 10 * 1.0 / 3_600)
