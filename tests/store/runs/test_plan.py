"""The rule that assigns images to shards, and the freezing of the plan."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.run_records import HEADER_NAME, Identity
from pseudoris.store.location import RunLocation
from pseudoris.store.runs import plan as plan_module
from pseudoris.store.runs.plan import (
    PlanTally,
    assign_shards,
    iter_plan,
    read_shard_plan,
    stream_plan,
    write_plan,
)
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources.items import SourceItem
from tests.builders.runs import stub_config
from tests.store.builders import make_entries, start_run


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(plan_module, "MAX_SHARDS_PER_PART", 2)


def test_what_was_planned_is_read_back_shard_by_shard(location, small_parts):
    entries = make_entries(num_shards=5, per_shard=3)
    header = start_run(location, entries)
    assert (header.num_images, header.num_shards, len(header.plan_parts)) == (15, 5, 3)
    assert [entry for _, shard in iter_plan(location, header) for entry in shard] == entries
    for shard in (4, 0, 3):
        assert read_shard_plan(location, header, shard) == entries[shard * 3 : shard * 3 + 3]


def test_a_gap_between_shards_is_refused(disk):
    entries = [*make_entries(num_shards=1), *make_entries(num_shards=1, first_shard=2)]
    with pytest.raises(ValueError, match="expected shard 1, got 2"):
        write_plan(disk, entries)


@pytest.mark.parametrize("shard", [-1, 3, 1000])
def test_a_shard_that_is_not_planned_is_told(location, shard):
    header = start_run(location, make_entries(num_shards=3))
    with pytest.raises(ValueError, match=f"no shard {shard}. It has 3 shards"):
        read_shard_plan(location, header, shard)


def test_a_part_of_another_content_is_refused(location):
    header = start_run(location)
    path = f"_plan/{header.plan_parts[0].name}"
    data = bytearray(location.read_bytes(path))
    data[200] ^= 1
    location.replace(path, bytes(data))
    with pytest.raises(ConfigError, match=r"its sha256 is not the one that _run\.json names. Restore the file"):
        list(iter_plan(location, header))


def test_a_damaged_row_group_is_noticed_by_its_checksum(location):
    header = start_run(location, make_entries(num_shards=1, per_shard=300))
    path = f"_plan/{header.plan_parts[0].name}"
    data = bytearray(location.read_bytes(path))
    data[1500:1508] = b"damaged!"
    location.replace(path, bytes(data))
    with pytest.raises(TransientError, match="the file is damaged"):
        read_shard_plan(location, header, 0)
    with pytest.raises(TransientError, match="the file is damaged"):
        list(stream_plan(location, header.plan_parts))


def test_a_missing_or_cut_part_is_refused(location):
    header = start_run(location)
    path = f"_plan/{header.plan_parts[0].name}"
    location.replace(path, location.read_bytes(path)[:-1])
    with pytest.raises(ConfigError, match=r"has \d+ bytes, _run\.json says \d+"):
        read_shard_plan(location, header, 0)
    with pytest.raises(ConfigError, match=r"has \d+ bytes, _run\.json says \d+"):
        list(stream_plan(location, header.plan_parts))
    location.delete(path)
    with pytest.raises(ConfigError, match=r"is missing, although _run\.json names it"):
        list(iter_plan(location, header))


IDENTITY = Identity(method={}, weights={}, device_kind="cpu", versions={})


def item(key: str, **values) -> SourceItem:
    return SourceItem(**{"key": key, "size_bytes": 10, **values})


def items(count: int, **values) -> list[SourceItem]:
    return [item(f"{index:03d}.jpg", **values) for index in range(count)]


def shards_of(listing, **bounds) -> list[list[str]]:
    shards: list[list[str]] = []
    for entry in assign_shards(listing, ShardsConfig(**bounds)):
        if entry.position == 0:
            shards.append([])
        assert entry.shard == len(shards) - 1
        shards[-1].append(entry.key)
    return shards


def test_a_repeated_key_is_planned_once_and_counted():
    tally = PlanTally()
    listing = [item("a"), item("a", size_bytes=99), item("b"), item("b"), item("c")]
    entries = list(assign_shards(listing, ShardsConfig(), tally=tally))
    assert [entry.key for entry in entries] == ["a", "b", "c"]
    assert tally == PlanTally(num_images=3, num_shards=1, num_repeated=2, size_bytes=30, max_shard_bytes=30)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), max_size=40),
    max_images=st.integers(1, 7),
    max_bytes=st.integers(1, 120),
    per_tar=st.integers(1, 9),
)
def test_every_image_is_planned_once_in_order_and_within_the_bounds(sizes, max_images, max_bytes, per_tar):
    listing = [
        item(f"{index:02d}", size_bytes=size, boundary=str(index // per_tar)) for index, size in enumerate(sizes)
    ]
    shards = shards_of(listing, max_images=max_images, max_bytes=max_bytes)
    assert [key for shard in shards for key in shard] == [entry.key for entry in listing]
    for shard in shards:
        members = [listing[int(key)] for key in shard]
        assert len(members) <= max_images
        assert len(members) == 1 or sum(member.size_bytes for member in members) <= max_bytes
        assert len({member.boundary for member in members}) == 1


def test_the_largest_shard_is_told_and_rows_count_with_their_mean():
    tally = PlanTally()
    rows = [SourceItem(f"t#{n}", row=n, boundary="t", mean_bytes=40) for n in range(3)]
    listing = [SourceItem("a.jpg", size_bytes=70), *rows]
    entries = list(assign_shards(listing, ShardsConfig(max_images=10, max_bytes=100), tally=tally))
    assert [entry.shard for entry in entries] == [0, 1, 1, 2]
    assert (tally.max_shard_bytes, tally.size_bytes) == (80, 190)


def plan(location, listing):
    request = RunRequest("annotate", "in", IDENTITY, stub_config("shards.max_images=2"))
    return plan_run(location, request, lambda: listing).header


def test_no_header_stands_while_the_plan_is_being_written(tmp_path):
    def listing():
        yield from items(3)
        assert not (tmp_path / HEADER_NAME).exists()
        raise ConnectionError("the bucket is gone")

    with pytest.raises(ConnectionError, match="gone"):
        plan(RunLocation.open(str(tmp_path)), listing())
    assert not (tmp_path / HEADER_NAME).exists()


@pytest.mark.parametrize("name", ["photo.jpg", ".DS_Store", ".x.parquet", "sub/x.parquet", ".sub/x.parquet"])
@pytest.mark.parametrize("folder", ["images", "masks", "expressions", "failures"])
def test_a_new_run_is_refused_where_a_table_folder_holds_something_else(tmp_path, folder, name):
    location = RunLocation.open(str(tmp_path))
    location.replace(f"{folder}/{name}", b"mine")
    found = re.escape(f"{folder}/{name.partition('/')[0]}")
    with pytest.raises(ConfigError, match=rf"{found} is .*\. Move it out, or name another OUT: a new run writes"):
        plan(location, items(3))
    assert [path.name for path in tmp_path.iterdir()] == [folder]
