"""The rule that assigns images to shards, the freezing of the plan, and a second listing against it."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.run_records import HEADER_NAME, Identity, RunHeader
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs import plan as plan_module
from pseudoris.store.runs.extension import ExtensionTally, extend_plan, new_entries
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.plan import PlanTally, assign_shards, iter_plan, read_shard_plan, stream_plan, write_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.store.sources.items import SourceItem
from tests.builders.images import png
from tests.builders.memory import least_peak_bytes
from tests.builders.runs import stub_config
from tests.builders.sources import parquet_bytes, tar_bytes, write_files
from tests.store.builders import make_entries, start_run


def test_what_was_planned_is_read_back_shard_by_shard(location, monkeypatch):
    monkeypatch.setattr(plan_module, "MAX_SHARDS_PER_PART", 2)
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


def test_a_part_that_is_not_as_the_header_says_is_refused(location):
    header = start_run(location)
    path = f"_plan/{header.plan_parts[0].name}"
    data = location.read_bytes(path)
    location.replace(path, data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(ConfigError, match=r"its sha256 is not the one that _run\.json names. Restore the file"):
        list(iter_plan(location, header))
    location.replace(path, data[:-1])
    for read in (lambda: read_shard_plan(location, header, 0), lambda: list(stream_plan(location, header.plan_parts))):
        with pytest.raises(ConfigError, match=r"has \d+ bytes, _run\.json says \d+"):
            read()
    location.delete(path)
    with pytest.raises(ConfigError, match=r"is missing, although _run\.json names it"):
        list(iter_plan(location, header))


def test_a_damaged_row_group_is_noticed_by_its_checksum(location):
    header = start_run(location, make_entries(num_shards=1, per_shard=300))
    path = f"_plan/{header.plan_parts[0].name}"
    data = location.read_bytes(path)
    location.replace(path, data[:1500] + b"damaged!" + data[1508:])
    for read in (lambda: read_shard_plan(location, header, 0), lambda: list(stream_plan(location, header.plan_parts))):
        with pytest.raises(TransientError, match="the file is damaged"):
            read()


IDENTITY = Identity(method={}, weights={}, device_kind="cpu", versions={})


def item(key: str, **values) -> SourceItem:
    return SourceItem(**{"key": key, "size_bytes": 10, "etag": "a", **values})


def items(*numbers: int, **values) -> list[SourceItem]:
    return [item(f"{number:06d}.jpg", **values) for number in numbers]


def plan(location: RunLocation, listing, *assignments: str) -> RunHeader:
    return plan_run(location, RunRequest("annotate", "in", IDENTITY, stub_config(*assignments)), lambda: listing).header


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


def test_no_header_stands_while_the_plan_is_being_written(tmp_path):
    def listing():
        yield from items(*range(3))
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
        plan(location, items(*range(3)))
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_new_keys_get_shards_of_their_own_after_the_plans(location):
    first = plan(location, items(1, 3, 5, 7, 9, 11))
    header, tally = extend_plan(location, first, items(*range(12)))
    assert (tally.num_images, tally.num_shards, tally.num_known) == (6, 2, 6)
    assert header == read_header(location)
    assert (header.num_images, header.num_shards) == (12, 4)
    keys = {shard: [entry.key[:6] for entry in entries] for shard, entries in iter_plan(location, header)}
    # The last shard of the first plan was not full, and stays as it is.
    assert keys[1] == ["000009", "000011"]
    assert keys[2] == ["000000", "000002", "000004", "000006"]
    assert keys[3] == ["000008", "000010"]
    assert header.plan_parts[-1].name.startswith("g0002/part-00000002-")


@pytest.mark.parametrize("change", [{"etag": "b"}, {"size_bytes": 11}, {"mtime_ns": 5, "etag": "a"}])
def test_a_known_key_that_changed_is_reported_and_left_alone(location, change):
    first = plan(location, items(*range(10)))
    header, tally = extend_plan(location, first, [*items(0, 1), *items(*range(2, 9), **change), *items(9)])
    assert header == first
    assert (tally.num_known, tally.num_changed) == (3, 7)
    assert tally.changed == [each.key for each in items(2, 3, 4, 5, 6)]


def test_vanished_keys_are_reported_and_left_alone_and_a_repeated_one_counts_once(location):
    first = plan(location, items(*range(10)))
    header, tally = extend_plan(location, first, items(4, 5))
    assert header == first
    assert (tally.num_vanished, tally.num_known) == (8, 2)
    assert tally.vanished == [each.key for each in items(0, 1, 2, 3, 6)]
    header, tally = extend_plan(location, first, items(1, 1, 20, 20, 20))
    assert (tally.num_known, tally.num_images, tally.num_repeated, header.num_repeated) == (1, 1, 2, 2)


def test_a_limit_bounds_what_is_new_and_the_rest_comes_with_the_next_one(location):
    header = plan(location, items(2, 9))
    header, tally = extend_plan(location, header, items(*range(10)), limit=3)
    assert (tally.num_images, tally.num_known, tally.num_vanished) == (3, 2, 0)
    header, tally = extend_plan(location, header, items(*range(10)))
    assert (tally.num_images, header.num_images) == (5, 10)


def test_killed_halfway_it_has_changed_nothing_and_the_next_one_reuses_what_it_wrote(location, monkeypatch):
    monkeypatch.setattr(plan_module, "MAX_SHARDS_PER_PART", 1)
    first = plan(location, items(0))

    def dying():
        yield from items(*range(30))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extend_plan(location, first, dying())
    left = {file.name for file in location.list("_plan/g0002")}
    assert left
    assert read_header(location) == first
    header, tally = extend_plan(location, first, items(*range(30)))
    assert tally.num_images == 29
    assert left <= {file.name for file in location.list("_plan/g0002")}
    assert header.num_images == 30


def test_of_two_drivers_the_first_extension_stands(location):
    first = plan(location, items(0))
    winner, _ = extend_plan(location, first, items(0, 1, 2))
    loser, _ = extend_plan(location, first, items(0, 1, 2, 3))
    assert loser == winner == read_header(location)


def test_a_listing_out_of_order_is_refused_and_never_planned_twice(location):
    first = plan(location, items(1, 2, 3))
    with pytest.raises(ConfigError, match="is not in the order of keys"):
        extend_plan(location, first, items(3, 1, 2, 4))
    assert read_header(location) == first


def tar_of(*numbers: int) -> bytes:
    return tar_bytes([(f"{number}.png", png()) for number in numbers])


# What is added to a source, by its kind, and how many images that are.
GROWN = {
    "files": (dict.fromkeys(("a/1.png", "b/x y.png", "é.png", "b.png"), png()), 4),
    "tars": ({"b.tar": tar_of(2, 1), "a-b.tar": tar_of(2, 2, 0)}, 4),
    "tables": ({"b.parquet": parquet_bytes({"bytes": [png()] * 25}, row_group_size=4)}, 25),
}


@pytest.mark.parametrize(("grown", "num_new"), GROWN.values(), ids=GROWN)
def test_a_real_source_that_grew_is_planned_as_if_it_had_been_whole(location, tmp_path, grown, num_new):
    source = write_files(tmp_path / "in", {f"a/image-{number}.png": png() for number in range(12)})
    write_files(source, {"a.tar": tar_of(*range(9, 0, -1))})
    write_files(source, {"a.parquet": parquet_bytes({"bytes": [png()] * 21}, row_group_size=10)})
    config = stub_config().source
    before = plan(location, open_source(str(source), config).list())
    assert before.num_images == 12 + 9 + 21
    write_files(source, grown)
    header, tally = extend_plan(location, before, open_source(str(source), config).list())
    assert (tally.num_images, tally.num_known, tally.num_changed, tally.num_vanished) == (num_new, 42, 0, 0)
    whole = {each.key for each in open_source(str(source), config).list()}
    planned = [entries for _, entries in iter_plan(location, header)]
    assert sorted(each.key for entries in planned for each in entries) == sorted(whole)
    assert not [problem for problem in verify_run(location).problems if problem.what != "not_committed"]
    for entries in planned:
        # A shard holds one tar's images, or one row group's, or plain files.
        assert len({(each.key.partition("!")[0] if "!" in each.key else "", each.row_group) for each in entries}) == 1


def test_a_tar_that_was_rewritten_gives_its_new_members_and_reports_the_others(location, tmp_path):
    tar, config = tmp_path / "a.tar", stub_config().source
    tar.write_bytes(tar_of(1, 2, 3))
    os.utime(tar, (1, 1))
    before = plan(location, open_source(str(tar), config).list())
    tar.write_bytes(tar_of(0, 1, 3))
    _, tally = extend_plan(location, before, open_source(str(tar), config).list())
    assert (tally.num_images, tally.num_changed, tally.num_vanished) == (1, 2, 1)
    assert (tally.changed, tally.vanished) == (["a.tar!1.png", "a.tar!3.png"], ["a.tar!2.png"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_that_are_known(location):
    def peak_bytes(count: int) -> int:
        at = RunLocation.open(f"{location.root}-{count}")
        header = plan(at, items(*range(count)), "shards.max_images=100")

        def extend(number: int) -> None:
            listing = (each for n in range(count) for each in items(n))
            assert not list(new_entries(at, header, listing, tally=(tally := ExtensionTally())))
            assert tally.num_known == count

        return least_peak_bytes(extend)

    small, large = peak_bytes(1_000), peak_bytes(8_000)
    # A set of the ids alone would take 70 bytes each.
    assert large - small < 7_000 * 70 / 4
