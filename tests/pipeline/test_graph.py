"""The graph itself: whole blocks, equal bytes whatever the placement, and nothing fused that must overlap."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline import executor
from pseudoris.pipeline.executor import actor_runtime, build_dataset, run_shards
from pseudoris.pipeline.identity import identity_on_cluster
from pseudoris.pipeline.shard_tasks import Job
from pseudoris.schemas.config import ComputeConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sources import open_source
from pseudoris.synthworld.demo import write_demo
from pseudoris.workers.process_memory import actor_environment
from tests.builders.plain_runs import work_off
from tests.builders.runs import part_digests, stub_config, write_source

pytestmark = pytest.mark.ray

SEEDED = "masks.options={raises_on: b/image-004.png}"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("images"), num_images=21)


@pytest.fixture(scope="module")
def identity(ray_session):
    return identity_on_cluster(stub_config(SEEDED))[0]


def planned_job(source: Path, out: Path, config: RunConfig, identity) -> Job:
    location = RunLocation.open(str(out))
    request = RunRequest("annotate", str(source), identity, config)
    header = plan_run(location, request, open_source(str(source), config.source).list).header
    return Job(str(source), location, header, config)


@pytest.fixture(scope="module")
def reference(ray_session, source, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("one-process")
    assert work_off(source, out, stub_config(SEEDED)).num_shards == 6
    return part_digests(out)


def test_placement_and_order_do_not_change_a_byte(source, identity, reference, tmp_path):
    job = planned_job(source, tmp_path, stub_config(SEEDED, "placement.mode=staged"), identity)
    receipts = list(run_shards(job, [3, 0, 5, 1, 4, 2], {"propose": 2, "caption": 1, "filter": 1}))
    assert sorted(receipt.shard for receipt in receipts) == list(range(6))
    assert part_digests(tmp_path) == reference
    assert len(reference) == 4 * 6


@pytest.mark.slow
@pytest.mark.long
def test_placement_and_order_do_not_change_a_byte_of_the_embedded_models_work(ray_session, tmp_path):
    images = write_demo(tmp_path / "demo", num_scenes=4)
    runs = {
        "one": (["placement.fused.max_actors=1"], {"fused": 1}, 1),
        "two": ([], {"fused": 2}, -1),
        "staged": (["placement.mode=staged"], {"propose": 1, "caption": 1, "filter": 1}, 1),
    }
    digests = {}
    for name, (assignments, actors, step) in runs.items():
        config = load_config("tiny", None, ["shards.max_images=3", *assignments])
        job = planned_job(images, tmp_path / name, config, identity_on_cluster(config)[0])
        receipts = list(run_shards(job, range(job.header.num_shards)[::step], actors))
        assert sum(receipt.counts.masks for receipt in receipts) > 4
        assert sum(receipt.counts.quarantined for receipt in receipts) > 2
        digests[name] = part_digests(tmp_path / name)
    assert digests["two"] == digests["one"]
    assert digests["staged"] == digests["one"]


@pytest.mark.long
def test_reading_is_not_fused_into_the_first_pool_even_where_it_asks_for_the_same(source, identity, tmp_path):
    same = "{num_cpus: 0.25}"
    pools = [f"placement.{name}={same}" for name in ("read", "commit", "propose", "caption", "filter")]
    job = planned_job(source, tmp_path, stub_config("placement.mode=staged", *pools), identity)
    dataset = build_dataset(job, range(6), {"propose": 1, "caption": 1, "filter": 1})
    assert len(dataset.take_all()) == 6
    operators = [line for line in dataset.stats().splitlines() if line.startswith("Operator")]
    names = ["ReadShards", *["MapBatches(StageActor)"] * 3, "MapBatches(commit_block)"]
    assert [line.split(":")[0].split(" ", 2)[2] for line in operators] == names


@pytest.mark.parametrize(("device", "own"), [("cpu", "MALLOC_TOP_PAD_"), ("cuda", "CUBLAS_WORKSPACE_CONFIG")])
def test_a_stages_process_is_told_its_threads_and_what_its_device_needs(device, own):
    environment = actor_environment(ComputeConfig(device=device, threads=3))
    assert environment["OMP_NUM_THREADS"] == "3"
    assert own in environment


NUM_LARGE, LARGE_BYTES = 100, 4_000_000


def read_large(job_ref, shard: int) -> list[pa.Table]:
    keys = [f"{index:03d}.bin" for index in range(NUM_LARGE)]
    images = (ShardImage(at, image_id(key), key, data=bytes([at]) * LARGE_BYTES) for at, key in enumerate(keys))
    return [shard_to_block(Shard(shard, 0, tuple(images)))]


class CountingActor:
    """Takes the place of a stage; a cut or merged block would not be a shard any more."""

    def __init__(self, job: Job, pool: str) -> None:
        self._name = pool

    def __call__(self, block: pa.Table) -> pa.Table:
        shard = block_to_shard(block)
        assert [image.position for image in shard.images] == list(range(NUM_LARGE))
        assert {image.data[-1] == image.position for image in shard.images} == {True}
        return shard_to_block(shard.with_seconds(self._name, block.nbytes))


def commit_large(block: pa.Table, job: Job) -> pa.Table:
    shard = block_to_shard(block)
    return pa.table({"images": [len(shard.images)], "stages": [len(shard.seconds)], "bytes": [block.nbytes]})


@pytest.mark.slow
@pytest.mark.long
def test_a_shard_of_400_mb_is_one_block_in_every_stage(source, identity, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "read_task", read_large)
    monkeypatch.setattr(executor, "StageActor", CountingActor)
    monkeypatch.setattr(executor, "commit_block", commit_large)
    job = planned_job(source, tmp_path, stub_config("placement.mode=staged"), identity)
    rows = build_dataset(job, [0], {"propose": 1, "caption": 1, "filter": 1}).take_all()
    assert len(rows) == 1
    assert (rows[0]["images"], rows[0]["stages"]) == (NUM_LARGE, 3)
    assert rows[0]["bytes"] > 400_000_000


def test_an_interpreter_below_a_folder_with_a_space_reaches_rays_shell_quoted():
    compute = stub_config().compute
    assert actor_runtime(compute, "/a b/bin/python")["py_executable"] == "'/a b/bin/python'"
    assert "py_executable" not in actor_runtime(compute, "/ab/bin/python")
