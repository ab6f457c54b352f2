"""The actor around the stages: what it records, what it passes on, and when its process ends. Without Ray."""

from __future__ import annotations

import gc
import multiprocessing
from dataclasses import replace
from unittest.mock import Mock

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline import executor, identity
from pseudoris.pipeline.executor import EXIT_UNUSABLE, StageActor, window_size
from pseudoris.pipeline.identity import measure_identity
from pseudoris.pipeline.shard_tasks import Job, block_to_outcome, commit_block
from pseudoris.primitives.errors import BrokenDeviceError, ConfigError, NoSubprocessError, TransientError
from pseudoris.schemas.shard import Shard, ShardFault
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.runs.attempts import begin_attempt, parse_attempts
from pseudoris.workers.stages import DECODER, device_versions
from tests.builders.runs import stub_config
from tests.store.builders import annotated, make_entries, start_run

ALL = ("propose", "caption", "filter")
ENTRIES = make_entries(num_shards=1)
SHARD = Shard(
    0, 0, tuple(annotated(entry) for entry in ENTRIES), planned_ids=tuple(entry.image_id for entry in ENTRIES)
)


class Stages:
    """Takes the place of `FaultTolerantStages`: it remembers its calls, and raises `error`."""

    error: Exception | None = None
    deaths: list[int]

    def __init__(self, names, config) -> None:
        Stages.deaths = []

    def __call__(self, shard: Shard, *, num_deaths: int) -> Shard:
        self.deaths.append(num_deaths)
        if self.error is not None:
            raise self.error
        return shard.with_seconds("propose", 1.0)


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    for module in ("executor", "shard_tasks"):
        monkeypatch.setattr(f"pseudoris.pipeline.{module}.this_node", lambda: "node-a")
    monkeypatch.setattr(executor, "living_nodes", lambda: [{"NodeID": "node-a"}])
    monkeypatch.setattr(executor, "check_process", lambda identity, config, kinds: ("versions.x: …",))
    monkeypatch.setattr(executor, "FaultTolerantStages", Stages)
    location = RunLocation.open(str(tmp_path / "out"))
    header = start_run(location, ENTRIES)
    return Job("images", location, header, header.config)


def die_with(job: Job, num_deaths: int) -> None:
    for _ in range(num_deaths):
        begin_attempt(job.location, 0, 0, pool="fused", session_nonce=job.session_nonce, node="node-a")


def test_a_shard_goes_through_the_stages_and_its_attempt_is_recorded(job):
    done = block_to_shard(StageActor(job, "fused")(shard_to_block(SHARD)))
    assert (done.planned_ids, done.nodes, done.mixed) == (SHARD.planned_ids, ("node-a",), ("versions.x: …",))
    assert done.seconds == {"propose": 1.0}
    assert [image.masks for image in done.images] == [image.masks for image in SHARD.images]
    begun, ended = parse_attempts(job.location)
    assert len(begun) == 1
    assert begun == ended


@pytest.mark.parametrize("error", [None, ConfigError("no weights")])
def test_no_garbage_is_collected_while_models_load_and_it_is_from_then_on(job, monkeypatch, error):
    def load(names, config):
        was_collecting.append(gc.isenabled())
        if error is not None:
            raise error

    was_collecting: list[bool] = []
    monkeypatch.setattr(executor, "FaultTolerantStages", load)
    StageActor(job, "fused")
    assert (was_collecting, gc.isenabled()) == ([False], True)


def test_images_that_the_run_embeds_keep_their_bytes(job):
    # Nothing behind the last stage asks for others.
    shards = job.config.shards.model_copy(update={"embed_images": True})
    embedding = replace(job, config=job.config.model_copy(update={"shards": shards}))
    shard = SHARD.with_images(tuple(replace(image, data=b"encoded") for image in SHARD.images))
    for run, kept in ((job, b""), (embedding, b"encoded")):
        done = block_to_shard(StageActor(run, "fused")(shard_to_block(shard)))
        assert {image.data for image in done.images} == {kept}


def test_a_committed_shard_passes_without_work_and_without_an_attempt(job):
    actor = StageActor(job, "fused")
    block = shard_to_block(Shard(0, 0, (), is_committed=True, planned_ids=SHARD.planned_ids))
    assert actor(block) is block
    assert Stages.deaths == []
    assert parse_attempts(job.location) == (frozenset(), frozenset())


@pytest.mark.parametrize("error", [BrokenDeviceError("illegal memory access"), NoSubprocessError("no memory")])
def test_a_process_that_cannot_go_on_ends_so_that_another_takes_the_shard(job, monkeypatch, error):
    monkeypatch.setattr(Stages, "error", error)
    process = multiprocessing.get_context("fork").Process(
        target=StageActor(job, "fused"), args=(shard_to_block(SHARD),)
    )
    process.start()
    process.join(60)
    assert process.exitcode == EXIT_UNUSABLE
    begun, ended = parse_attempts(job.location)
    assert (len(begun), ended) == (1, frozenset())


def test_the_stages_are_told_how_many_processes_have_died_with_the_shard(job):
    die_with(job, 2)
    StageActor(job, "fused")(shard_to_block(SHARD))
    assert Stages.deaths == [2]


def test_after_too_many_deaths_the_shard_is_set_aside(job):
    die_with(job, job.config.placement.max_deaths_per_shard)
    fault = block_to_shard(StageActor(job, "fused")(shard_to_block(SHARD))).fault
    assert fault.message.startswith("shard 0 crashed its process 6 times on nodes that are alive")
    assert Stages.deaths == []


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConfigError("out of memory: lower X"), ShardFault(0, "out of memory: lower X", is_config=True)),
        (TransientError("killed from outside"), ShardFault(0, "killed from outside", is_config=False)),
        (OSError("a bad sector"), ShardFault(0, "OSError: a bad sector", is_config=False)),
    ],
)
def test_a_shard_on_which_a_stage_raises_goes_on_without_images_and_says_why(job, monkeypatch, error, fault):
    monkeypatch.setattr(Stages, "error", error)
    block = StageActor(job, "fused")(shard_to_block(SHARD))
    assert block_to_shard(block) == Shard(0, 0, (), fault=fault)
    begun, ended = parse_attempts(job.location)
    assert len(begun) == 1
    assert begun == ended
    # The next pool and the commit pass it on.
    later = StageActor(job, "filter")
    assert later(block) is block
    assert block_to_outcome(commit_block(block, job)) == fault


@pytest.mark.usefixtures("stub_engines")
def test_where_a_run_names_no_decoder_the_receipt_says_that_a_card_chose_one(job, monkeypatch):
    config = stub_config("placement.allow_mixed=true")
    header = job.header.model_copy(update={"identity": measure_identity(config)})
    versions = device_versions(config)
    monkeypatch.setattr(identity, "device_versions", lambda config: {**versions, DECODER: "tree"})
    monkeypatch.setattr(executor, "check_process", identity.check_process)
    begun = replace(job, header=header, config=config)
    receipt = block_to_outcome(commit_block(StageActor(begun, "fused")(shard_to_block(SHARD)), begun))
    assert receipt.mixed == ("versions.pseudoris.decoder: 'absent' in the run, 'tree' now",)


def test_a_bug_in_a_stage_and_an_output_that_takes_no_record_of_the_attempt_stop_the_run(job, monkeypatch):
    monkeypatch.setattr(Stages, "error", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        StageActor(job, "fused")(shard_to_block(SHARD))
    monkeypatch.setattr(executor, "begin_attempt", Mock(side_effect=ConfigError("the disk is full")))
    with pytest.raises(ConfigError, match="the disk is full"):
        StageActor(job, "fused")(shard_to_block(SHARD))


def test_a_user_s_mistake_is_raised_by_the_first_call_and_not_by_the_constructor(job, monkeypatch):
    monkeypatch.setattr(executor, "check_process", Mock(side_effect=ConfigError("other weights")))
    actor = StageActor(job, "fused")
    with pytest.raises(ConfigError, match="other weights"):
        actor(shard_to_block(SHARD))


@pytest.mark.parametrize(
    ("num_pending", "size"), [(1, 1), (100_000, 100_000), (100_001, 50_001), (50_000, 50_000), (300_001, 75_001)]
)
def test_the_executions_of_a_run_are_equal_and_as_few_as_may_be(num_pending, size):
    assert window_size(num_pending) == size
