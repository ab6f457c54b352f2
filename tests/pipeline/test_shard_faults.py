"""One shard's failure or everyone's: what reading and committing do with each. Without Ray."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from unittest.mock import Mock

import pytest

from pseudoris.pipeline import shard_tasks
from pseudoris.pipeline.shard_tasks import Job, block_to_outcome, commit_block, read_block
from pseudoris.schemas.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.shard import Proof, Shard
from pseudoris.schemas.shard_blocks import block_to_shard
from pseudoris.store.files.storage import storage_errors
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import list_receipts, receipt_path
from pseudoris.store.sources.planned_images import Reading
from tests.store.builders import annotated, make_entries, start_run

NUM_SHARDS = 5


@pytest.fixture
def broken() -> set[int]:
    """The shards whose images the storage does not give."""
    return set()


class Prover:
    def prove(self, data: bytes) -> Proof:
        raise ImageError("corrupt", "a decoder that answers is well")


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
    monkeypatch.setattr(shard_tasks, "shared_prover", lambda limits, **_: nullcontext(Prover()))
    monkeypatch.setattr(shard_tasks, "this_node", lambda: "node-a")
    monkeypatch.setattr(shard_tasks, "check_packages", lambda identity, config: ())
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


def test_the_only_shard_of_a_run_has_no_other_to_compare_with(tmp_path, job, broken):
    location = RunLocation.open(str(tmp_path / "one"))
    header = start_run(location, make_entries(1))
    broken.add(0)
    with pytest.raises(TransientError, match="cannot read"):
        read_block(Job("images", location, header, header.config), 0)


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

    def fail(*arguments):
        raise TransientError("the bucket does not answer")

    monkeypatch.setattr(RunLocation, "create_once", fail)
    with pytest.raises(TransientError, match="the bucket does not answer"):
        commit_block(block, job)
