"""A shard's bytes from a bucket: one request an image, a few a tar, on the condition of the planned etag."""

from __future__ import annotations

import pytest

from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.shard import Shard
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from tests.builders.fault_proxy import Fault
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, plan_of, tar_bytes

LIMITS = StorageConfig(read_timeout_s=20, patience_s=60)


@pytest.fixture
def read(proxy, prover, s3_server, s3_bucket):
    """Write objects, plan them, let something happen, and read the shard; the proxy counts the reading alone."""
    client = s3_server.client()

    def put(objects: dict[str, bytes], **more) -> None:
        for key, data in objects.items():
            client.put_object(Bucket=s3_bucket, Key=f"set/{key}", Body=data, **more)

    def plan_and_read(objects, meanwhile=lambda put, delete: None, faults=(), limits=LIMITS, **source) -> Shard:
        put(objects)
        base = load_config("tiny")
        config = base.model_copy(
            update={
                "source": SourceConfig(endpoint_url=proxy.endpoint_url, **source),
                "placement": base.placement.model_copy(update={"storage": limits}),
            }
        )
        uri = f"s3://{s3_bucket}/set"
        entries = plan_of(open_source(uri, config.source, limits=limits).list())
        meanwhile(put, lambda key: client.delete_object(Bucket=s3_bucket, Key=f"set/{key}"))
        proxy.reset_counts()
        proxy.set_faults(faults)
        return read_shard(uri, config, entries, prover=prover)

    return plan_and_read


def reasons(shard: Shard) -> list[str | None]:
    return [image.failure.reason if image.failure else None for image in shard.images]


def images(count: int) -> dict[str, bytes]:
    return {f"{number:02d}.png": png(seed=number) for number in range(count)}


def test_an_image_is_one_request(read, proxy):
    wanted = images(20)
    assert [image.data for image in read(wanted).images] == list(wanted.values())
    # The listing is the look whether SOURCE is still there: once a shard.
    assert proxy.counts == {"GetObject": 20, "ListObjectsV2": 1}


def test_dots_in_the_place_of_a_folder_are_names_like_any_other(read):
    wanted = {key: png(seed=n) for n, key in enumerate(["../up.png", "./here.png", "a/../b/./c.png", "b/c.png"])}
    shard = read(wanted)
    assert {image.key: image.data for image in shard.images} == wanted


def test_what_changed_or_vanished_is_told_without_a_second_look_at_the_others(read, proxy):
    def meanwhile(put, delete):
        put({"01.png": png(seed=77)})
        delete("02.png")

    shard = read(images(5), meanwhile)
    assert reasons(shard) == [None, "changed", "missing", None, None]
    # The missing one is asked for twice.
    assert proxy.counts["GetObject"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tar", "t.parquet"])
def test_a_shard_of_a_file_that_was_written_anew_is_changed(read, name):
    def content(seed: int) -> bytes:
        rows = [png(seed=seed + n) for n in range(3)]
        members = [(f"{n}.png", row) for n, row in enumerate(rows)]
        return tar_bytes(members) if name == "a.tar" else parquet_bytes({"bytes": rows})

    assert reasons(read({name: content(0)}, lambda put, _: put({name: content(50)}))) == ["changed"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slow_down", "reset", "cut_body"])
def test_a_fault_of_the_bucket_is_tried_again_and_quarantines_nothing(read, proxy, kind):
    wanted = images(12)
    shard = read(wanted, faults=[Fault(kind, rate=0.4, operation="GetObject", seconds=0.3)])
    assert [image.data for image in shard.images] == list(wanted.values())
    assert proxy.hits[kind] > 0


@pytest.mark.slow
def test_a_bucket_that_stays_away_ends_the_attempt(read):
    # Long enough that the listing before is answered by a busy machine too.
    limits = LIMITS.model_copy(update={"patience_s": 5.0})
    with pytest.raises(TransientError, match=r"cannot read s3://.*SlowDown \(HTTP 503\), retried for 5 s"):
        read(images(3), faults=[Fault("slow_down", operation="GetObject")], limits=limits)


def test_an_archived_object_is_quarantined_at_once_with_the_remedy_and_the_others_are_read(read, s3_server, s3_bucket):
    # Archived from the start: a change of the class changes the etag of some stores, not of others.
    s3_server.client().put_object(Bucket=s3_bucket, Key="set/99.png", Body=png(seed=9), StorageClass="GLACIER")
    shard = read(images(2))
    assert reasons(shard) == [None, None, "archived"]
    assert shard.images[2].failure.message.startswith("the object is archived: restore it")


@pytest.mark.parametrize("name", ["", "a.tar", "t.parquet"])
def test_a_bucket_whose_readers_pay_is_read_if_the_setting_says_so(read, proxy, name):
    data = {"": png(), "a.tar": tar_bytes([("0.png", png())]), "t.parquet": parquet_bytes({"bytes": [png()]})}[name]
    without = Fault("denied", lacks_header="x-amz-request-payer")
    proxy.set_faults([without])
    with pytest.raises(ConfigError, match=r"is denied.*source.requester_pays=true"):
        read({name or "0.png": data})
    shard = read({}, faults=[without], requester_pays=True)
    assert [image.data for image in shard.images] == [png()]
    assert not proxy.hits
