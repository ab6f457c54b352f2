"""`--repair` below the command line: what is written again, what is refused, and what a writer that woke up leaves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.commit import as_quarantined, commit_retry, make_receipt
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.parts import damaged_tables, lost_part, read_part, restore_parts
from pseudoris.store.tables.shard_tables import bytes_of_version_5, table_bytes
from tests.builders.scored_runs import commit_scored, scored_run
from tests.store.builders import commit, commit_made, make_shard, parts, quarantined, start_run

HIGHER = RuleChange(tau=1.2)


@pytest.fixture
def shard(location):
    """A committed shard: its run, its receipt and its parts by table."""
    header = start_run(location)
    (receipt,) = commit(location, header, 1)
    paths = {table: f"{table}/{part.name}" for table, part in receipt.parts.items()}
    return location, receipt, {table: location.read_bytes(path) for table, path in paths.items()}


def test_only_damaged_parts_are_written_and_gc_keeps_them(shard, monkeypatch):
    location, receipt, contents = shard
    before = parts(location)
    masks, images = (f"{table}/{receipt.parts[table].name}" for table in ("masks", "images"))
    location.delete(masks)
    location.replace(images, before[images][:-1] + b"?")
    assert damaged_tables(location, receipt) == ["images", "masks"]
    run_gc(location)
    written, replace = [], RunLocation.replace
    monkeypatch.setattr(
        RunLocation, "replace", lambda self, path, data: written.append(path) or replace(self, path, data)
    )
    restore_parts(location, receipt, contents)
    assert sorted(written) == [images, masks]
    run_gc(location)
    assert parts(location) == before


@pytest.mark.parametrize("lost", ["masks", "expressions"])
def test_other_bytes_than_the_receipt_names_are_never_written(shard, lost):
    location, receipt, contents = shard
    for table in ("images", lost):
        location.delete(f"{table}/{receipt.parts[table].name}")
    left = parts(location)
    said = rf"shard 1 cannot be repaired: .* Restore .*{lost}/shard-00000001.* from a copy"
    other = table_bytes(read_part(io.BytesIO(contents[lost]), SCHEMAS[lost], lost).slice(1))
    with pytest.raises(ConfigError, match=said):
        restore_parts(location, receipt, {**contents, lost: other})
    # Nor the part that would fit: half of a shard from another version helps nobody.
    assert parts(location) == left


def test_parts_that_an_earlier_version_wrote_come_back_as_it_wrote_them(location):
    header = scored_run(location, num_shards=1)
    receipt = commit_scored(location, header, 0)
    contents = {table: location.read_bytes(f"{table}/{part.name}") for table, part in receipt.parts.items()}
    before = {table: bytes_of_version_5(table, data) for table, data in contents.items()}
    earlier = make_receipt(Shard(0, 0, ()), before, receipt.counts)
    restore_parts(location, earlier, contents)
    assert {table: location.read_bytes(f"{table}/{part.name}") for table, part in earlier.parts.items()} == before
    assert before != contents


def test_a_folder_in_the_place_of_a_part_has_one_remedy(shard):
    location, receipt, contents = shard
    if not location.root.startswith("/"):
        pytest.skip("a bucket has no folders")
    path = f"masks/{receipt.parts['masks'].name}"
    location.delete(path)
    Path(location.root, path).mkdir()
    with pytest.raises(ConfigError, match="Move it out"):
        restore_parts(location, receipt, contents)
    (found,) = (each.detail for each in verify_run(location).problems if each.what == "part_missing")
    assert "Move it out" in found
    assert "Move it out" in str(lost_part(location, path))


def test_a_repair_that_wakes_up_after_a_retry_and_its_collection_leaves_no_part_behind(location):
    header = scored_run(location, num_shards=1)
    commit_scored(location, header, 0, generation=1)
    run_gc(location)
    left = parts(location)
    # As the same work of a driver that lost its lock.
    commit_scored(location, header, 0, is_repair=True)
    assert parts(location) == left


def test_an_image_that_was_missing_and_is_damaged_now_stays_missing_in_a_repair(location):
    entries = read_shard_plan(location, header := start_run(location), 1)
    was, now = (quarantined(entries[0], reason) for reason in ("missing", "not_an_image"))
    shard = make_shard(entries)
    receipt = commit_made(location, header, shard.with_images((was, *shard.images[1:])))
    repaired = as_quarantined(location, shard.with_images((now, *shard.images[1:])), receipt).images[0]
    assert repaired == ShardImage(now.position, now.image_id, now.key, failure=was.failure)


def test_a_retry_vouches_for_no_damage_of_the_generation_before(location):
    header = start_run(location)
    (receipt,) = commit(location, header, 1)
    path = f"masks/{receipt.parts['masks'].name}"
    # In the last bytes, which no checksum of a page covers.
    location.replace(path, location.read_bytes(path)[:-9] + b"?" + location.read_bytes(path)[-8:])
    entries = read_shard_plan(location, header, 1)
    retried = make_shard(entries, 1).with_images((quarantined(entries[3], "missing"),))
    with pytest.raises(ConfigError, match=r"is damaged: its sha256 .* command of this run again with --repair"):
        commit_made(location, header, retried, write=commit_retry)
    assert [each.generation for each in latest_receipts(location)] == [0]


def test_a_refilter_says_what_it_lacks_and_brings_it_back(location, request, monkeypatch):
    if location.root.startswith("s3:"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_server").endpoint_url)
    scored_run(location)
    new = RunLocation.open(f"{location.root}-new")
    refilter(location, new, HIGHER)
    before, notices = parts(new), []
    for receipt in latest_receipts(new):
        if receipt.shard in (0, 2):
            new.delete(f"masks/{receipt.parts['masks'].name}")
            new.replace(f"expressions/{receipt.parts['expressions'].name}", b"PAR1")
    with pytest.raises(ConfigError, match="Run the `pseudoris refilter` command of this run again with --repair"):
        refilter(location, new, HIGHER)
    refilter(location, new, HIGHER, is_repair=True, on_wait=notices.append)
    assert notices == ["2 of 4 shards have missing or damaged parts: they are written again"]
    assert parts(new) == before
    with pytest.raises(ConfigError, match="there is no run at"):
        refilter(location, RunLocation.open(f"{location.root}-none"), HIGHER, is_repair=True)


@pytest.fixture
def refiltered(tmp_path):
    """Two runs: a parent, and what a refilter made of it."""
    parent, new = (RunLocation.open(str(tmp_path / name)) for name in ("parent", "new"))
    scored_run(parent)
    refilter(parent, new, HIGHER)
    return parent, new


def test_a_shard_that_no_parent_gives_back_keeps_no_other_from_it(refiltered):
    parent, new = refiltered
    before = parts(new)
    for receipt in latest_receipts(new):
        new.delete(f"masks/{receipt.parts['masks'].name}")
    first = next(latest_receipts(parent)).parts["images"].name
    parent.delete(f"images/{first}")
    with pytest.raises(ConfigError, match=rf"(?s)shard 0.*All other shards are.*{first} is missing") as told:
        refilter(parent, new, HIGHER, is_repair=True)
    assert len(str(told.value).splitlines()) == 2
    (lost,) = before.keys() - parts(new).keys()
    assert lost.startswith("masks/shard-00000000.")


LOST = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:100] + b"????" + path.read_bytes()[104:]),
}


@pytest.mark.parametrize("place", ["_plan/g0001", "_receipts", "_run.json"])
@pytest.mark.parametrize("kind", LOST)
def test_a_repair_and_verify_say_what_only_a_copy_gives_back(refiltered, kind, place):
    parent, new = refiltered
    path = Path(new.root, place)
    path = path if path.suffix else min(path.iterdir())
    LOST[kind](path)
    told = []
    if place == "_run.json":
        with pytest.raises(ConfigError) as caught:
            verify_run(new)
        told.append(str(caught.value))
    else:
        told += [each.detail for each in verify_run(new).problems]
    if (place, kind) == ("_receipts", "missing"):
        # It is computed again.
        assert "run the `pseudoris refilter` command of this run again" in told[0]
        refilter(parent, new, HIGHER, is_repair=True)
        assert verify_run(new).is_clean
        return
    with pytest.raises(ConfigError) as caught:
        refilter(parent, new, HIGHER, is_repair=True)
    for text in (*told, str(caught.value)):
        assert path.name in text
        assert "Restore " in text
