"""The plan of a run whose SOURCE has moved: all generations in one listing, and no more in memory than some rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.runs.moved_source import moved_plan
from pseudoris.store.runs.plan import moved_parts, read_shard_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import SourceItem, open_source
from tests.builders.images import png
from tests.builders.sources import write_files
from tests.store.builders import extend_run, start_run

NUM_IMAGES, PER_SHARD = 104_000, 400


def planned(generation: int) -> list[PlanEntry]:
    """Return every second image, in its generation's shards."""
    keys = [f"{number:06d}.png" for number in range(generation, NUM_IMAGES, 2)]
    first = generation * len(keys) // PER_SHARD
    return [
        PlanEntry(first + place // PER_SHARD, place % PER_SHARD, image_id(key), key, 100, None, 5)
        for place, key in enumerate(keys)
    ]


def test_an_extension_that_fails_behind_a_move_leaves_nothing_of_it(disk, tmp_path):
    header = start_run(disk, planned(0)[:PER_SHARD])
    source = open_source(str(write_files(tmp_path / "new", {"a.png": png()})), header.config.source)
    items, before = (
        [SourceItem(f"{number:06d}.png", 100) for number in range(0, 2 * PER_SHARD, 2)],
        [*disk.list("_plan")],
    )
    listings = iter([items])

    def listed() -> list[SourceItem]:
        for found in listings:
            return found
        raise ConfigError("the listing broke off")

    kept = {"origin": header.origin, "source": header.source, "identity": header.identity, "config": header.config}
    with pytest.raises(ConfigError, match="the listing broke off"):
        plan_run(disk, RunRequest(**kept, is_extension=True, moved=source), listed)
    assert [*disk.list("_plan")] == before
    assert not [name for name, _ in disk.list_obstacles("_plan") if name.startswith("m")]


@pytest.mark.slow
@pytest.mark.long
def test_the_versions_of_a_listing_reach_every_shard_of_two_generations(disk, tmp_path):
    header = extend_run(disk, start_run(disk, planned(0)), planned(1))
    source = open_source(str(write_files(tmp_path / "new", {"a.png": png()})), header.config.source)
    items = [SourceItem(f"{number:06d}.png", 100, etag=f"e{number}", mtime_ns=7) for number in range(NUM_IMAGES)]
    extra = SourceItem(f"{NUM_IMAGES}.png", 100, etag="new")

    worked = moved_plan(disk, header, [*items, extra], source=source, config=header.config)
    for shard in range(0, header.num_shards, 3):
        entries = read_shard_plan(disk, header, shard)
        moved = [replace(each, etag=f"e{int(each.key[:6])}", mtime_ns=7) for each in entries]
        assert read_shard_plan(disk, worked, shard) == moved
    assert len(worked.plan_parts) > len(header.plan_parts)

    for path in moved_parts(disk):
        disk.delete(path)
    with pytest.raises(ConfigError, match=r"1 of 104,000 planned images differ, the first: 103999.png is missing"):
        moved_plan(disk, header, items[:-1], source=source, config=header.config)
    assert not moved_parts(disk)
