"""Tars and tables looked into by tasks: the listing of one process, in its order."""

from __future__ import annotations

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.pipeline import fan_out
from pseudoris.pipeline.fan_out import checking_on_cluster, list_on_cluster
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import PoolConfig, SourceConfig, StorageConfig
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.sources import open_source
from tests.builders.fault_proxy import Fault, injecting
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, tar_bytes
from tests.store.builders import commit, make_entries, start_run

pytestmark = pytest.mark.ray

POOL = PoolConfig(num_cpus=0.25)


def write_mixture(folder) -> None:
    """Write images, tars and tables whose keys interleave; some tars hold nothing."""
    for number in range(11):
        members = [(f"{n}.png", png(seed=n)) for n in range(number % 4)] + [("x.heic", b"x")] * (number % 2)
        (folder / f"{number:02d}.tar").write_bytes(tar_bytes(members))
        if number % 3 == 0:
            (folder / f"{number:02d}-image.png").write_bytes(png())
        if number % 4 == 0:
            rows = {"bytes": [png(seed=n) for n in range(number + 1)]}
            (folder / f"{number:02d}.parquet").write_bytes(parquet_bytes(rows, row_group_size=2))
    (folder / "03.parquet").write_bytes(parquet_bytes({"url": ["https://a.example/x.jpg"]}))


@pytest.mark.parametrize("in_flight", [1, 2, 64])
def test_the_listing_is_that_of_one_process(ray_session, tmp_path, monkeypatch, in_flight):
    monkeypatch.setattr(fan_out, "TASKS_IN_FLIGHT", in_flight)
    write_mixture(tmp_path)
    source = open_source(str(tmp_path), SourceConfig(format="auto"))
    listed, left_out = list(list_on_cluster(source, POOL)), list(source.left_out.notices())
    assert (listed, left_out) == (list(source.list()), list(source.left_out.notices()))
    assert source.left_out.extensions == {".heic": 5}
    assert source.left_out.num_tables == 1


def test_images_behind_a_tar_do_not_wait_on_the_driver_by_the_million(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(fan_out, "BUNDLES_WAITING", 10)
    (tmp_path / "00.tar").write_bytes(tar_bytes([("a.png", png())]))
    for number in range(200):
        (tmp_path / f"{number:03d}.png").write_bytes(b"not looked into")
    source = open_source(str(tmp_path), SourceConfig(format="auto"))
    listed, files = [], type(source).files

    def counted(source):
        for file in files(source):
            listed.append(file)
            yield file

    monkeypatch.setattr(type(source), "files", counted)
    first = next(list_on_cluster(source, POOL))
    assert first.key.startswith("00.tar")
    assert len(listed) <= 12


def test_a_damaged_tar_and_an_empty_source_are_told_as_in_one_process(ray_session, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 1024)
    with pytest.raises(ConfigError, match=r"a\.tar cannot be listed as a tar"):
        list(list_on_cluster(open_source(str(tmp_path), SourceConfig()), POOL))
    (tmp_path / "a.tar").write_bytes(tar_bytes([]))
    with pytest.raises(ConfigError, match="lists no image"):
        list(list_on_cluster(open_source(str(tmp_path), SourceConfig()), POOL))


def test_many_tars_in_a_bucket_are_indexed_by_tasks_under_faults(ray_session, s3_server, s3_bucket):
    client = s3_server.client()
    for number in range(10):
        members = [(f"{n}.png", bytes(40_000)) for n in range(3)]
        client.put_object(Bucket=s3_bucket, Key=f"set/{number:03d}.tar", Body=tar_bytes(members))
    with injecting(s3_server.endpoint_url, [Fault("slow_down", rate=0.2), Fault("reset", rate=0.1)]) as proxy:
        source = open_source(f"s3://{s3_bucket}/set", SourceConfig(endpoint_url=proxy.endpoint_url))
        keys = [item.key for item in list_on_cluster(source, POOL)]
    assert keys == [f"{number:03d}.tar!{n}.png" for number in range(10) for n in range(3)]
    assert proxy.hits["slow_down"] > 0


NUM_SHARDS = 11


@pytest.fixture
def run(tmp_path):
    """Return a run of eleven shards, one of them not committed and two of them damaged."""
    location = RunLocation.open(str(tmp_path))
    header = start_run(location, make_entries(NUM_SHARDS, 2))
    commit(location, header, *range(NUM_SHARDS - 1))
    for table, shard in (("masks", 3), ("images", 7)):
        (part,) = [file.name for file in location.list(table) if file.name.startswith(f"shard-{shard:08d}")]
        data = bytearray(location.read_bytes(f"{table}/{part}"))
        data[len(data) // 2] ^= 1
        location.replace(f"{table}/{part}", bytes(data))
    return location


@pytest.mark.parametrize("options", [{}, {"quick": True}, {"sample": 4}], ids=str)
def test_the_report_is_that_of_one_process(ray_session, run, options):
    here = verify_run(run, **options)
    assert not here.is_clean
    seen = []
    there = verify_run(
        run, **options, check=checking_on_cluster(POOL), progress=lambda done, total: seen.append((done, total))
    )
    assert there == here
    assert seen[-1] == (NUM_SHARDS, NUM_SHARDS)


@pytest.mark.parametrize(("kind", "error"), [("denied", ConfigError), ("slow_down", TransientError)])
def test_what_storage_refuses_to_a_task_is_told_as_what_it_is(ray_session, s3_server, s3_bucket, kind, error):
    with injecting(s3_server.endpoint_url) as proxy:
        location = RunLocation.open(f"s3://{s3_bucket}/run", proxy.endpoint_url, StorageConfig(patience_s=2.0))
        commit(location, start_run(location, make_entries(2, 2)), 0, 1)
        proxy.set_faults([Fault(kind, operation="GetObject", key="masks/")])
        with pytest.raises(error, match=f"s3://{s3_bucket}/run/masks/"):
            verify_run(location, check=checking_on_cluster(POOL))
