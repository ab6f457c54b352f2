"""The rule that assigns images to shards, and the freezing of the plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.run_records import HEADER_NAME, Identity
from pseudoris.store.location import RunLocation
from pseudoris.store.runs import plan as plan_module
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.plan import (
    PlanTally,
    assign_shards,
    iter_plan,
    plan_run,
    read_shard_plan,
    stream_plan,
    write_plan,
)
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


def test_equal_entries_give_equal_parts_and_a_second_writing_touches_nothing(disk):
    first = write_plan(disk, make_entries())
    path = Path(disk.uri(f"_plan/{first.parts[0].name}"))
    before = path.stat()
    assert write_plan(disk, iter(make_entries())) == first
    assert [file.name for file in disk.list("_plan/g0001")] == [path.name]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_extension_starts_above_zero_in_a_folder_of_its_own(location):
    extension = make_entries(num_shards=2, per_shard=2, first_shard=3)
    summary = write_plan(location, extension, generation=2)
    assert summary.parts[0].name.startswith("g0002/part-00000003-")
    header = start_run(location, make_entries(num_shards=3))
    whole = header.model_copy(update={"plan_parts": (*header.plan_parts, *summary.parts)})
    assert read_shard_plan(location, whole, 4) == extension[2:]


def test_a_gap_between_shards_is_refused(disk):
    entries = [*make_entries(num_shards=1), *make_entries(num_shards=1, first_shard=2)]
    with pytest.raises(ValueError, match="expected shard 1, got 2"):
        write_plan(disk, entries)


def test_a_plan_is_streamed_as_it_is_read_whole(location, small_parts):
    header = start_run(location, make_entries(num_shards=7, per_shard=3))
    assert len(header.plan_parts) > 1
    assert list(stream_plan(location, header.plan_parts)) == list(iter_plan(location, header))
    assert next(stream_plan(location, header.plan_parts[1:]))[0] > 0
    assert list(stream_plan(location, ())) == []


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
    with pytest.raises(ConfigError, match=r"is not the plan that _run\.json names: expected sha256"):
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
    with pytest.raises(ConfigError, match=r"expected \d+ bytes, got \d+"):
        read_shard_plan(location, header, 0)
    with pytest.raises(ConfigError, match=r"expected \d+ bytes, got \d+"):
        list(stream_plan(location, header.plan_parts))
    location.delete(path)
    with pytest.raises(ConfigError, match="expected a file, got none"):
        list(iter_plan(location, header))


def test_a_header_that_names_a_strange_part_is_refused(location):
    header = start_run(location)
    part = header.plan_parts[0].model_copy(update={"name": "../../etc/passwd"})
    with pytest.raises(ConfigError, match="names a plan part"):
        read_shard_plan(location, header.model_copy(update={"plan_parts": (part,)}), 0)


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


def test_a_listing_out_of_order_is_refused_for_its_repeats_could_not_be_told():
    with pytest.raises(ValueError, match="out of order: 'a' comes after 'b'"):
        list(assign_shards([item("a"), item("b"), item("a")], ShardsConfig()))


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
    items = [
        SourceItem("a.jpg", size_bytes=70),
        *(SourceItem(f"t#{n}", row=n, boundary="t", mean_bytes=40) for n in range(3)),
    ]
    entries = list(assign_shards(items, ShardsConfig(max_images=10, max_bytes=100), tally=tally))
    assert [entry.shard for entry in entries] == [0, 1, 1, 2]
    assert (tally.max_shard_bytes, tally.size_bytes) == (80, 190)


def plan(location, listing, **values):
    config = stub_config("shards.max_images=2")
    return plan_run(location, listing, **{"source": "in", "identity": IDENTITY, "config": config, **values})


def test_the_header_counts_what_the_plan_holds(tmp_path):
    location = RunLocation.open(str(tmp_path / "out"))
    header = plan(location, [item("000.jpg"), *items(5)])
    assert (header.num_images, header.num_repeated, header.num_shards) == (5, 1, 3)
    assert header == read_header(location)
    assert [[entry.key for entry in entries] for _, entries in iter_plan(location, header)] == [
        ["000.jpg", "001.jpg"],
        ["002.jpg", "003.jpg"],
        ["004.jpg"],
    ]


def test_a_limit_plans_the_first_images_of_the_listing(tmp_path):
    header = plan(RunLocation.open(str(tmp_path)), items(5), limit=3)
    assert (header.num_images, header.num_shards) == (3, 2)


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
