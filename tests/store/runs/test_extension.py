"""A second listing against the plan: what is new, changed or gone, whatever kind of SOURCE it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.extension import ExtensionTally, extend_plan, new_entries
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.plan import iter_plan
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.store.sources.items import SourceItem
from tests.builders.images import png
from tests.builders.memory import least_peak_bytes
from tests.builders.runs import stub_config
from tests.builders.sources import parquet_bytes, tar_bytes

IDENTITY = Identity(method={}, weights={}, device_kind="cpu", versions={})


def item(key: str, **values) -> SourceItem:
    return SourceItem(**{"key": key, "size_bytes": 10, "etag": "a", **values})


def items(*numbers: int, **values) -> list[SourceItem]:
    return [item(f"{number:06d}.jpg", **values) for number in numbers]


def plan(location: RunLocation, listing, *assignments: str) -> RunHeader:
    return plan_run(location, RunRequest("annotate", "in", IDENTITY, stub_config(*assignments)), lambda: listing).header


def planned_keys(location: RunLocation) -> list[str]:
    return [entry.key for _, entries in iter_plan(location, read_header(location)) for entry in entries]


@pytest.fixture
def location(tmp_path):
    return RunLocation.open(str(tmp_path / "out"))


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
    monkeypatch.setattr("pseudoris.store.runs.plan.MAX_SHARDS_PER_PART", 1)
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


def grow_files(folder: Path) -> None:
    for name in ("a/1.png", "b/x y.png", "é.png", "b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())


def grow_tars(folder: Path) -> None:
    (folder / "b.tar").write_bytes(tar_bytes([("2.png", png()), ("1.png", png())]))
    (folder / "a-b.tar").write_bytes(tar_bytes([("2.png", png()), ("2.png", png()), ("0.png", png())]))


def grow_tables(folder: Path) -> None:
    (folder / "b.parquet").write_bytes(parquet_bytes({"bytes": [png()] * 25}, rows_per_group=4))


@pytest.mark.parametrize(
    ("grow", "num_new"), [(grow_files, 4), (grow_tars, 4), (grow_tables, 25)], ids=["files", "tars", "tables"]
)
def test_a_real_source_that_grew_is_planned_as_if_it_had_been_whole(location, tmp_path, grow, num_new):
    source = tmp_path / "in"
    for number in range(12):
        (source / "a").mkdir(parents=True, exist_ok=True)
        (source / "a" / f"image-{number}.png").write_bytes(png())
    (source / "a.tar").write_bytes(tar_bytes([(f"{9 - n}.png", png()) for n in range(9)]))
    (source / "a.parquet").write_bytes(parquet_bytes({"bytes": [png()] * 21}, rows_per_group=10))
    config = stub_config().source
    before = plan(location, open_source(str(source), config).list())
    assert before.num_images == 12 + 9 + 21
    grow(source)
    header, tally = extend_plan(location, before, open_source(str(source), config).list())
    assert (tally.num_images, tally.num_known, tally.num_changed, tally.num_vanished) == (num_new, 42, 0, 0)
    whole = {each.key for each in open_source(str(source), config).list()}
    assert sorted(planned_keys(location)) == sorted(whole)
    assert not [problem for problem in verify_run(location).problems if problem.what != "not_committed"]
    for _, entries in iter_plan(location, header):
        # A shard holds one tar's images, or one row group's, or plain files.
        assert len({(each.key.partition("!")[0] if "!" in each.key else "", each.row_group) for each in entries}) == 1


def test_a_tar_that_was_rewritten_gives_its_new_members_and_reports_the_others(location, tmp_path):
    tar, config = tmp_path / "a.tar", stub_config().source
    tar.write_bytes(tar_bytes([("1.png", png()), ("2.png", png()), ("3.png", png())]))
    os.utime(tar, (1, 1))
    before = plan(location, open_source(str(tar), config).list())
    tar.write_bytes(tar_bytes([("0.png", png()), ("1.png", png()), ("3.png", png())]))
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
