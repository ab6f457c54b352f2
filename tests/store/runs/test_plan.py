from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.tables import PLAN_SCHEMA
from pseudoris.store.location import RunLocation
from pseudoris.store.runs import plan as plan_module
from pseudoris.store.runs.plan import iter_plan, read_shard_plan, stream_plan, write_plan
from pseudoris.store.tables.parquet_files import open_parquet
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


def test_every_field_of_an_entry_survives(location):
    full = PlanEntry(0, 0, "ab" * 8, "a.parquet#17", None, "etag-1", 123456789012345678, 5 * 2**40, 3, 2**40)
    bare = PlanEntry(0, 1, "cd" * 8, "a.tar!b.jpg", 0)
    header = start_run(location, [full, bare])
    assert read_shard_plan(location, header, 0) == [full, bare]


def test_a_row_group_holds_exactly_one_shard(disk):
    header = start_run(disk, make_entries(num_shards=3, per_shard=4))
    parquet = pq.ParquetFile(disk.uri(f"_plan/{header.plan_parts[0].name}"))
    shards = [set(parquet.read_row_group(n)["shard"].to_pylist()) for n in range(parquet.num_row_groups)]
    assert shards == [{0}, {1}, {2}]
    assert parquet.schema_arrow.equals(PLAN_SCHEMA, check_metadata=True)


def test_equal_entries_give_equal_parts_and_a_second_writing_touches_nothing(disk):
    first = write_plan(disk, make_entries())
    path = Path(disk.uri(f"_plan/{first.parts[0].name}"))
    before = path.stat()
    assert write_plan(disk, iter(make_entries())) == first
    assert [file.name for file in disk.list("_plan/g0001")] == [path.name]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_parts_are_written_while_the_listing_still_runs(disk, small_parts):
    entries = iter(make_entries(num_shards=7, per_shard=1))

    def stop_listing():
        yield from islice(entries, 6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plan(disk, stop_listing())
    assert sorted(file.name[:13] for file in disk.list("_plan/g0001")) == ["part-00000000", "part-00000002"]


def test_a_part_is_bounded_by_its_rows_as_well(disk, monkeypatch):
    monkeypatch.setattr(plan_module, "MAX_ROWS_PER_PART", 5)
    assert [part.rows for part in write_plan(disk, make_entries(num_shards=3, per_shard=2)).parts] == [4, 2]


def test_an_extension_starts_above_zero_in_a_folder_of_its_own(location):
    extension = make_entries(num_shards=2, per_shard=2, first_shard=3)
    summary = write_plan(location, extension, generation=2)
    assert summary.parts[0].name.startswith("g0002/part-00000003-")
    header = start_run(location, make_entries(num_shards=3))
    whole = header.model_copy(update={"plan_parts": (*header.plan_parts, *summary.parts)})
    assert read_shard_plan(location, whole, 4) == extension[2:]


def test_a_plan_of_nothing_has_no_parts(location):
    header = start_run(location, [])
    assert header.plan_parts == ()
    assert list(iter_plan(location, header)) == []


def test_a_gap_between_shards_is_refused(disk):
    entries = [*make_entries(num_shards=1), *make_entries(num_shards=1, first_shard=2)]
    with pytest.raises(ValueError, match="expected shard 1, got 2"):
        write_plan(disk, entries)


def test_a_gap_between_positions_is_refused(disk):
    entries = make_entries(num_shards=1)
    entries[1] = replace(entries[1], position=2)
    with pytest.raises(ValueError, match="expected position 1, got 2"):
        write_plan(disk, entries)


def test_a_plan_is_streamed_as_it_is_read_whole(location, small_parts):
    header = start_run(location, make_entries(num_shards=7, per_shard=3))
    assert len(header.plan_parts) > 1
    assert list(stream_plan(location, header.plan_parts)) == list(iter_plan(location, header))
    assert next(stream_plan(location, header.plan_parts[1:]))[0] > 0
    assert list(stream_plan(location, ())) == []


def test_parts_that_are_streamed_side_by_side_are_never_read_whole(location, monkeypatch):
    header = start_run(location, make_entries(num_shards=5))
    monkeypatch.setattr(RunLocation, "read_bytes", lambda *_: pytest.fail("a whole part was read"))
    streams = [stream_plan(location, header.plan_parts) for _ in range(3)]
    assert [[shard for shard, _ in each] for each in zip(*streams, strict=True)] == [[n] * 3 for n in range(5)]


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


def test_damage_is_noticed_after_the_footer_was_kept(disk):
    header = start_run(disk, make_entries(num_shards=1, per_shard=300))
    read_shard_plan(disk, header, 0)
    path = f"_plan/{header.plan_parts[0].name}"
    data = bytearray(disk.read_bytes(path))
    data[1500:1508] = b"damaged!"
    disk.replace(path, bytes(data))
    with pytest.raises(TransientError, match="the file is damaged"):
        read_shard_plan(disk, header, 0)


def test_the_footer_of_a_part_is_read_once(disk, small_parts, monkeypatch):
    footers = []

    def opened(file, name, footer=None):
        footers.append(footer)
        return open_parquet(file, name, footer)

    monkeypatch.setattr(plan_module, "open_parquet", opened)
    header = start_run(disk, make_entries(num_shards=20, per_shard=1))
    for shard in range(20):
        read_shard_plan(disk, header, shard)
    assert [footer is None for footer in footers] == [True, False] * 10
    assert len(plan_module._FOOTERS) <= plan_module._MAX_FOOTERS


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
