"""The sample, the arithmetic on its receipts, and a sample that is really run."""

from __future__ import annotations

import tempfile
from collections import Counter

import pytest

from pseudoris.pipeline.sample_estimate import draw_sample, estimate
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.sources.exclusions import exclusion
from pseudoris.store.sources.items import SourceItem
from tests.builders.runs import stub_config, write_source


def items(count: int) -> list[SourceItem]:
    return [SourceItem(key=f"{number:04d}.jpg", size_bytes=10) for number in range(count)]


def test_a_sample_is_a_part_of_the_listing_in_its_order_and_the_same_every_time():
    sample = draw_sample(items(500), stub_config(), size=40, seed=3)
    keys = [item.key for item in sample.items]
    assert len(set(keys)) == 40
    assert keys == sorted(keys)
    assert sample.tally.num_images == 500
    assert draw_sample(items(500), stub_config(), size=40, seed=3).items == sample.items
    assert draw_sample(items(500), stub_config(), size=40, seed=4).items != sample.items


@pytest.mark.slow
def test_every_image_is_as_likely_as_any_other():
    counts = Counter(
        item.key for seed in range(600) for item in draw_sample(items(50), stub_config(), size=10, seed=seed).items
    )
    assert len(counts) == 50
    # 600 draws at 1/5: 120 expected, 9.8 the standard deviation; five of them on both sides.
    assert min(counts.values()) > 70
    assert max(counts.values()) < 170


def test_a_small_source_is_taken_whole_and_a_repeated_key_once():
    sample = draw_sample([each for item in items(3) for each in (item, item)], stub_config(), size=10, seed=0)
    assert [item.key for item in sample.items] == [item.key for item in items(3)]
    assert (sample.tally.num_images, sample.tally.num_repeated) == (3, 3)


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
