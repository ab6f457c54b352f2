"""The tasks that read and commit a shard, without Ray."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import pytest

from pseudoris.pipeline import shard_tasks
from pseudoris.pipeline.shard_tasks import Job, Retry, block_to_outcome, commit_block, read_block
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.attempts import begin_attempt, parse_attempts
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import read_receipt, receipt_path
from tests.store.builders import annotated, commit, make_entries, start_run

NUM_IMAGES = 8


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    """A planned run of one shard, whose images are read as they would leave the last stage."""

    def read_shard(source, config, entries, *, prover, generation, others, exclusions):
        return Shard(entries[0].shard, generation, tuple(annotated(entry) for entry in entries))

    monkeypatch.setattr(shard_tasks, "read_shard", read_shard)
    monkeypatch.setattr(shard_tasks, "this_node", lambda: "node-a")
    monkeypatch.setattr(shard_tasks, "check_packages", lambda identity, config: ("versions.x: …",))
    monkeypatch.setattr(shard_tasks, "task_meter", Mock())
    location = RunLocation.open(str(tmp_path / "out"))
    header = start_run(location, make_entries(num_shards=1, per_shard=NUM_IMAGES))
    return Job("images", location, header, header.config)


def planned_ids(job: Job) -> tuple[str, ...]:
    return tuple(entry.image_id for entry in read_shard_plan(job.location, job.header, 0))


def retrying(job: Job, base: int = 0) -> Job:
    return replace(job, retry=Retry({0: base}))


def test_a_shard_is_read_and_committed_with_its_plan_read_once(job, monkeypatch):
    ids, reads = planned_ids(job), []

    def read_plan(*arguments):
        reads.append(arguments)
        return read_shard_plan(*arguments)

    monkeypatch.setattr(shard_tasks, "read_shard_plan", read_plan)
    block = read_block(job, 0)
    shard = block_to_shard(block)
    assert (shard.planned_ids, shard.is_committed) == (ids, False)
    assert (shard.nodes, shard.mixed) == (("node-a",), ("versions.x: …",))
    receipt = block_to_outcome(commit_block(block, job))
    assert receipt == read_receipt(job.location, 0, 0)
    assert receipt.counts.images == NUM_IMAGES
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["cut", "reordered", "doubled"])
def test_a_shard_that_is_not_the_plan_s_is_not_committed(job, change):
    shard = block_to_shard(read_block(job, 0))
    images = {
        "cut": shard.images[:-1],
        "reordered": (*shard.images[1:], replace(shard.images[0], position=NUM_IMAGES)),
        "doubled": (*shard.images, shard.images[-1]),
    }[change]
    with pytest.raises(ValueError, match=f"the plan {NUM_IMAGES}: .*nothing is committed"):
        commit_block(shard_to_block(shard.with_images(images)), job)
    assert read_receipt(job.location, 0, 0) is None


def test_a_shard_that_is_committed_already_is_not_read_and_is_answered_with_its_receipt(job, monkeypatch):
    commit(job.location, job.header, 0)
    begin_attempt(job.location, 0, 0, pool="fused", session_nonce="earlier", node="node-b")
    for name in ("read_shard", "read_shard_plan"):
        monkeypatch.setattr(shard_tasks, name, lambda *arguments, **options: pytest.fail("was read"))
    block = read_block(job, 0)
    assert block_to_shard(block) == Shard(0, 0, (), is_committed=True)
    assert block_to_outcome(commit_block(block, job)) == read_receipt(job.location, 0, 0)
    # The records of an earlier life go all the same.
    assert parse_attempts(job.location) == (frozenset(), frozenset())


def test_a_committed_shard_whose_receipt_is_gone_is_to_be_run_again_and_never_becomes_rows(job):
    commit(job.location, job.header, 0)
    block = read_block(job, 0)
    job.location.delete(receipt_path(0, 0))
    fault = block_to_outcome(commit_block(block, job))
    assert fault.message == (
        "the receipt of shard 0, generation 0, was deleted during the run. Run the same command again"
    )
    assert not fault.is_config
    assert read_receipt(job.location, 0, 0) is None


def test_a_retry_reads_the_quarantined_images_and_knows_the_whole_plan(job):
    # Every fourth image of `commit` is in quarantine, from the fourth on.
    commit(job.location, job.header, 0)
    shard = block_to_shard(read_block(retrying(job), 0))
    assert (shard.generation, [image.position for image in shard.images]) == (1, [3, 7])
    assert shard.planned_ids == planned_ids(job)
    assert block_to_outcome(commit_block(shard_to_block(shard), retrying(job))).generation == 1
    # Done twice, after a loss: the generation to write stands.
    again = block_to_shard(read_block(retrying(job), 0))
    assert (again.generation, again.is_committed) == (1, True)
