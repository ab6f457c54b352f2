"""The tasks that read and commit a shard, onto which the masks of another run may go. Without Ray."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.files.storage import storage_errors
from pseudoris.pipeline import shard_tasks
from pseudoris.pipeline.shard_tasks import Job, block_to_outcome, commit_block, read_block
from pseudoris.pipeline.stored_masks import StoredMasks
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.shard import Failure, Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import begin_attempt, parse_attempts
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import latest_receipts, list_receipts, read_receipt, receipt_path
from pseudoris.store.sources.planned_images import Reading
from tests.store.builders import annotated, commit, commit_images, empty, make_entries, quarantined, start_run

NUM_SHARDS = 5


@pytest.fixture
def broken() -> set[int]:
    """The shards whose images the storage does not give."""
    return set()


@pytest.fixture
def job(tmp_path, monkeypatch, broken) -> Job:
    def refuse_broken(entry):
        if entry.shard in broken:
            raise TransientError(f"cannot read {entry.key}: Input/output error; fix this")

    def read_shard(source, config, entries, *, prover, generation, others, exclusions):
        refuse_broken(entries[0])
        return Shard(entries[0].shard, generation, tuple(annotated(entry) for entry in entries))

    def read_or_refused(root, entries, config):
        refuse_broken(entries[0])
        yield Reading(entries[0].position, b"bytes", "disk")

    monkeypatch.setattr(shard_tasks, "read_shard", read_shard)
    monkeypatch.setattr(shard_tasks, "read_or_refused", read_or_refused)
    monkeypatch.setattr(shard_tasks, "open_root", lambda *arguments: None)
    prover = Mock(**{"prove.side_effect": ImageError("corrupt", "a decoder that answers is well")})
    monkeypatch.setattr(shard_tasks, "shared_prover", lambda limits, **_: nullcontext(prover))
    monkeypatch.setattr(shard_tasks, "this_node", lambda: "node-a")
    monkeypatch.setattr(shard_tasks, "check_packages", lambda identity, config: ("versions.x: …",))
    monkeypatch.setattr(shard_tasks, "task_meter", Mock())
    location = RunLocation.open(str(tmp_path / "out"))
    header = start_run(location, make_entries(NUM_SHARDS))
    return Job("images", location, header, header.config)


def outcomes(job: Job) -> list[str]:
    """Work every shard off; return what became of each."""
    found = []
    for shard in range(NUM_SHARDS):
        outcome = block_to_outcome(commit_block(read_block(job, shard), job))
        found.append(getattr(outcome, "message", "committed"))
    return found


def test_a_shard_that_cannot_be_read_is_set_aside_while_another_can(job, broken):
    broken.update({0, 1, 2})
    found = outcomes(job)
    assert found[0] == "cannot read s0/0.png: Input/output error; fix this"
    assert found[3:] == ["committed", "committed"]
    assert list(list_receipts(job.location)) == [3, 4]
    assert block_to_shard(read_block(job, 0)).fault.is_proven


def test_a_source_that_gives_no_shard_stops_the_run(job, broken):
    broken.update(range(NUM_SHARDS))
    with pytest.raises(TransientError, match=r"cannot read s3/0\.png: Input/output error"):
        read_block(job, 3)


def test_the_only_shard_of_a_run_has_no_other_to_compare_with(alone, broken):
    broken.add(0)
    with pytest.raises(TransientError, match="cannot read"):
        read_block(alone, 0)


def test_a_damaged_row_group_of_the_plan_costs_its_shard_alone(job):
    (record,) = job.header.plan_parts
    path = f"_plan/{record.name}"
    data = bytearray(job.location.read_bytes(path))
    at = data.index(b"s2/0.png")
    data[at : at + 2] = b"??"
    job.location.replace(path, bytes(data))
    found = outcomes(job)
    assert "is damaged" in found[2]
    assert [text for text in found if text == "committed"] == ["committed"] * 4


def test_a_folder_in_the_place_of_a_receipt_costs_its_shard_alone(job, tmp_path):
    (tmp_path / "out" / receipt_path(1, 0)).mkdir(parents=True)
    found = outcomes(job)
    assert found[1].endswith("it is a folder, but must be a file. Move it out, or name another location")
    assert [text for text in found if text == "committed"] == ["committed"] * 4


def test_a_plan_that_is_gone_stops_the_run(job):
    (record,) = job.header.plan_parts
    job.location.delete(f"_plan/{record.name}")
    with pytest.raises(ConfigError, match=r"is missing, although _run\.json names it"):
        read_block(job, 0)


@pytest.mark.parametrize(
    ("number", "is_own"), [(errno.EFBIG, True), (errno.EIO, True), (errno.ENOSPC, False), (errno.EDQUOT, False)]
)
def test_a_shard_that_alone_cannot_be_written_is_set_aside_and_a_full_disk_stops_the_run(
    job, monkeypatch, number, is_own
):
    def fail(location, path, data):
        with storage_errors("write", location.uri(path)):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(RunLocation, "put_part", fail)
    block = read_block(job, 0)
    if is_own:
        fault = block_to_outcome(commit_block(block, job))
        assert fault.message.startswith("cannot write ")
        assert not fault.is_proven
    else:
        with pytest.raises(ConfigError, match="free space or name another output"):
            commit_block(block, job)


def test_an_output_that_takes_nothing_stops_the_run(job, monkeypatch):
    block = read_block(job, 0)
    monkeypatch.setattr(RunLocation, "create_once", Mock(side_effect=TransientError("the bucket does not answer")))
    with pytest.raises(TransientError, match="the bucket does not answer"):
        commit_block(block, job)


NUM_IMAGES = 8


@pytest.fixture
def alone(tmp_path, job) -> Job:
    """A planned run of one shard, whose images are read as they would leave the last stage."""
    location = RunLocation.open(str(tmp_path / "one"))
    header = start_run(location, make_entries(num_shards=1, per_shard=NUM_IMAGES))
    return Job("images", location, header, header.config)


def planned_ids(job: Job) -> tuple[str, ...]:
    return tuple(entry.image_id for entry in read_shard_plan(job.location, job.header, 0))


def retrying(job: Job, base: int = 0) -> Job:
    return replace(job, generations={0: base}, is_retry=True)


@pytest.mark.parametrize("change", ["cut", "reordered", "doubled"])
def test_a_shard_that_is_not_the_plan_s_is_not_committed(alone, change):
    shard = block_to_shard(read_block(alone, 0))
    images = {
        "cut": shard.images[:-1],
        "reordered": (*shard.images[1:], replace(shard.images[0], position=NUM_IMAGES)),
        "doubled": (*shard.images, shard.images[-1]),
    }[change]
    with pytest.raises(ValueError, match=f"the plan {NUM_IMAGES}: .*nothing is committed"):
        commit_block(shard_to_block(shard.with_images(images)), alone)
    assert read_receipt(alone.location, 0, 0) is None


def test_a_shard_that_is_committed_already_is_not_read_and_is_answered_with_its_receipt(alone, monkeypatch):
    commit(alone.location, alone.header, 0)
    begin_attempt(alone.location, 0, 0, pool="fused", session_nonce="earlier", node="node-b")
    for name in ("read_shard", "read_shard_plan"):
        monkeypatch.setattr(shard_tasks, name, lambda *arguments, **options: pytest.fail("was read"))
    block = read_block(alone, 0)
    assert block_to_shard(block) == Shard(0, 0, (), is_committed=True)
    assert block_to_outcome(commit_block(block, alone)) == read_receipt(alone.location, 0, 0)
    # The records of an earlier life go all the same.
    assert parse_attempts(alone.location) == (frozenset(), frozenset())


def test_a_committed_shard_whose_receipt_is_gone_is_to_be_run_again_and_never_becomes_rows(alone):
    commit(alone.location, alone.header, 0)
    block = read_block(alone, 0)
    alone.location.delete(receipt_path(0, 0))
    fault = block_to_outcome(commit_block(block, alone))
    assert fault.message == (
        "the receipt of shard 0, generation 0, was deleted during the run. Run the same command again"
    )
    assert not fault.is_config
    assert read_receipt(alone.location, 0, 0) is None


def test_a_retry_reads_the_quarantined_images_and_knows_the_whole_plan(alone):
    # Every fourth image of `commit` is in quarantine, from the fourth on.
    commit(alone.location, alone.header, 0)
    shard = block_to_shard(read_block(retrying(alone), 0))
    assert (shard.generation, [image.position for image in shard.images]) == (1, [3, 7])
    assert (shard.planned_ids, shard.nodes, shard.mixed) == (planned_ids(alone), ("node-a",), ("versions.x: …",))
    receipt = block_to_outcome(commit_block(shard_to_block(shard), retrying(alone)))
    assert (receipt.generation, receipt.mixed) == (1, ("versions.x: …",))
    # Done twice, after a loss: the generation to write stands, also when gc took the one before it.
    for _ in range(2):
        again = read_block(retrying(alone), 0)
        assert (block_to_shard(again).generation, block_to_shard(again).is_committed) == (1, True)
        assert block_to_outcome(commit_block(again, retrying(alone))) == read_receipt(alone.location, 0, 1)
        run_gc(alone.location)


MASKED = make_entries(num_shards=1, per_shard=4)


@pytest.fixture
def stored(tmp_path) -> StoredMasks:
    """Those of a run of two images with masks, one without, and one in quarantine."""
    location = RunLocation.open(str(tmp_path / "parent"))
    kinds = dict(zip([entry.image_id for entry in MASKED], (annotated, annotated, empty, quarantined), strict=True))
    header = start_run(location, MASKED)
    commit_images(location, header, lambda entry: replace(kinds[entry.image_id](entry), num_too_small=3))
    write_manifest(location, latest_receipts(location))
    parent = Parent.open(location, RunLocation.open(str(tmp_path / "out")))
    return StoredMasks.pinned(parent, parent.pin())


def test_an_image_gets_its_masks_where_its_bytes_are_those_that_they_were_proposed_for(stored):
    read = [replace(annotated(entry), masks=(), expressions=()) for entry in MASKED]
    read[1] = replace(read[1], sha256="f" * 64)
    same, changed, bare, failed = stored.onto(Shard(0, 0, tuple(read))).images
    assert (same.masks, same.failure) == (annotated(MASKED[0]).masks, None)
    assert (changed.masks, changed.failure.reason) == ((), "changed")
    assert (bare.masks, bare.failure) == ((), None)
    assert (failed.masks, failed.failure.reason) == ((), "corrupt")


@pytest.mark.parametrize(("has_too_small", "number"), [(False, None), (True, 3)])
def test_how_many_masks_were_too_small_comes_with_the_masks_where_the_run_asks(stored, has_too_small, number):
    read = tuple(replace(annotated(entry), masks=(), expressions=()) for entry in MASKED)
    found = replace(stored, has_too_small=has_too_small).onto(Shard(0, 0, read)).images
    assert [image.num_too_small for image in found] == [number, number, number, None]


def test_an_image_that_cannot_be_read_now_has_its_own_reason(stored):
    lost = replace(empty(MASKED[0]), failure=Failure("read", "missing", "not there"))
    (found,) = stored.onto(Shard(0, 0, (lost,))).images
    assert found == lost
