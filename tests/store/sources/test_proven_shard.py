"""From a plan to proven bytes: each hard input gets its reason, and the storage's faults are never an image's."""

from __future__ import annotations

import errno
import hashlib
import os
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from pseudoris.files.local_storage import LocalStorage
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import NOTE_NO_END_MARKER, decode_upright
from pseudoris.images.prover import Prover
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import ImagesConfig, RunConfig, SourceConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.sources.root import SourceRoot
from pseudoris.store.tables.shard_tables import shard_tables
from tests.builders import images as build
from tests.builders.fault_proxy import Fault
from tests.builders.hostile_plugin import hostile
from tests.builders.sources import parquet_bytes, plan_of, reasons, tar_bytes, write_files

PLUGIN = "tests.builders.hostile_plugin"


def config(*, source: SourceConfig | None = None, **images) -> RunConfig:
    images_config = ImagesConfig(**{"decoder_plugins": (PLUGIN,), "max_pixels": 30_000_000, **images})
    return load_config("tiny").model_copy(update={"images": images_config, "source": source or SourceConfig()})


@pytest.fixture(scope="module")
def prover():
    with Prover(config().images) as prover:
        yield prover


@pytest.fixture
def read(prover):
    """Plan SOURCE, let something happen, and read the shard."""

    def plan_and_read(source, meanwhile=lambda: None, configuration: RunConfig | None = None) -> Shard:
        configuration = configuration or config()
        entries = plan_of(open_source(str(source), configuration.source).list(), shard=7)
        meanwhile()
        return read_shard(str(source), configuration, entries, prover=prover)

    return plan_and_read


def test_a_jpeg_without_its_end_marker_is_read_and_noted_in_the_table(tmp_path, read):
    whole = build.jpeg()
    shard = read(write_files(tmp_path, {"cut.jpg": whole[:-2], "short.jpg": whole[:-90], "whole.jpg": whole}))
    assert reasons(shard) == {"cut.jpg": None, "short.jpg": "corrupt", "whole.jpg": None}
    rows = {row["key"]: row for row in shard_tables(shard, embed_images=False)["images"].to_pylist()}
    assert {key: row["note"] for key, row in rows.items()} == {
        "cut.jpg": NOTE_NO_END_MARKER,
        "short.jpg": None,
        "whole.jpg": None,
    }
    assert block_to_shard(shard_to_block(shard)) == shard


@pytest.mark.parametrize("has_phash", [True, False])
def test_a_perceptual_hash_stands_in_the_table_where_the_settings_ask_for_it(tmp_path, has_phash):
    data = build.jpeg()
    source = write_files(tmp_path, {"a.jpg": data, "b.jpg": data[:9]})
    asked = config(phash=has_phash)
    entries = plan_of(open_source(str(source), asked.source).list(), shard=7)
    # A rule by perceptual hash asks for it too, and the table leaves it out all the same.
    with Prover(asked.images.hashed()) as prover:
        shard = read_shard(str(source), asked, entries, prover=prover)
    due = perceptual_hash(decode_upright(data, asked.images)) if has_phash else None
    assert shard_tables(block_to_shard(shard_to_block(shard)), embed_images=False)["images"]["phash"].to_pylist() == [
        due,
        None,
    ]


def hard_inputs() -> dict[str, tuple[bytes, str | tuple[int, int]]]:
    """Name, bytes, and what is expected: a reason, or the upright (height, width)."""
    jpeg = build.encode(build.random_pixels(64, 64), "JPEG")
    palette = Image.fromarray(build.random_pixels(9, 8)).quantize(16)
    inputs: dict[str, tuple[bytes, str | tuple[int, int]]] = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "corrupt"),
        "zero bytes.jpg": (b"", "empty_file"),
        "text.jpg": (b"these are my notes\n" * 20, "not_an_image"),
        "one pixel.png": (build.png(1, 1), (1, 1)),
        "a line.png": (build.png(1, 5000), (1, 5000)),
        "bomb.png": (build.png_of_header_only(30_000, 30_000), "too_many_pixels"),
        "inks.jpg": (build.encode(Image.new("CMYK", (6, 5)), "JPEG"), (5, 6)),
        "palette.png": (build.encode(palette, transparency=3), (9, 8)),
        "16 bit.png": (build.encode(np.zeros((4, 7), np.uint16)), (4, 7)),
        "moves.gif": (build.animation("GIF", [build.random_pixels(5, 6), build.random_pixels(5, 6, seed=1)]), (5, 6)),
        "moves.webp": (build.animation("WEBP", [build.random_pixels(5, 6), build.random_pixels(5, 6, seed=1)]), (5, 6)),
        "folder/same name.png": (build.png(3, 4), (3, 4)),
        "other/same name.png": (build.png(4, 3), (4, 3)),
        "日本/été 🦆.png": (build.png(), (24, 32)),
        os.fsdecode(b"caf\xe9.png"): (build.png(), (24, 32)),
        "abort.bmp": (hostile("abort"), "decoder_killed"),
    }
    for orientation in range(2, 9):
        size = (6, 10) if orientation < 5 else (10, 6)
        inputs[f"turned {orientation}.jpg"] = (build.oriented(build.smooth_pixels(6, 10), orientation, "JPEG"), size)
    return inputs


def test_every_hard_input_is_proven_or_quarantined_with_its_reason(tmp_path, read):
    inputs = hard_inputs()
    shard = read(write_files(tmp_path, {name: data for name, (data, _) in inputs.items()}))
    assert (shard.shard, shard.generation, shard.nodes) == (7, 0, ())
    assert [image.position for image in shard.images] == list(range(len(inputs)))
    assert shard.seconds["read"] > 0
    expected = {data: outcome for data, outcome in inputs.values()}
    by_digest = {hashlib.sha256(data).hexdigest(): outcome for data, outcome in expected.items()}
    for image in shard.images:
        outcome = by_digest[image.sha256]
        if image.failure is None:
            assert (image.height, image.width) == outcome, image.key
            assert hashlib.sha256(image.data).hexdigest() == image.sha256
        else:
            assert (image.failure.stage, image.failure.reason) == ("read", outcome), image.key
            assert image.data == b""
            assert image.height is None


def test_a_file_that_vanishes_is_missing_and_the_rest_is_read(tmp_path, read):
    write_files(tmp_path, dict.fromkeys(("a.png", "b.png", "c.png"), build.png()))
    shard = read(tmp_path, meanwhile=(tmp_path / "b.png").unlink)
    assert reasons(shard) == {"a.png": None, "b.png": "missing", "c.png": None}
    assert shard.images[1].sha256 is None


def test_a_file_that_is_back_for_the_second_look_is_read(tmp_path, read, monkeypatch):
    (tmp_path / "a.png").write_bytes(build.png())
    stat, looks = LocalStorage.stat, []

    def flickering(self, path):
        looks.append(path)
        if len(looks) == 1:
            raise FileNotFoundError(path)
        return stat(self, path)

    shard = read(tmp_path, meanwhile=lambda: monkeypatch.setattr(LocalStorage, "stat", flickering))
    assert reasons(shard) == {"a.png": None}


def test_a_source_that_is_gone_quarantines_nothing(tmp_path, read, monkeypatch):
    folder = write_files(tmp_path / "mounted", {"a.png": build.png()})
    with pytest.raises(ConfigError, match="mounted' does not exist"):
        read(folder, lambda: folder.rename(tmp_path / "elsewhere"))
    monkeypatch.setattr("pseudoris.store.sources.proven_shard.open_root", lambda *_: SourceRoot(LocalStorage(folder)))
    (tmp_path / "elsewhere").rename(folder)
    with pytest.raises(TransientError, match="SOURCE is gone"):
        read(folder, lambda: folder.rename(tmp_path / "elsewhere"))


@pytest.mark.parametrize("method", ["stat", "open"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT])
def test_a_fault_of_the_storage_is_never_a_quarantine(tmp_path, read, monkeypatch, number, method):
    (tmp_path / "a.png").write_bytes(build.png())
    fails = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr("pseudoris.store.sources.proven_shard.AGAIN_AFTER_S", 0.0)
    with pytest.raises(TransientError, match=os.strerror(number)):
        read(tmp_path, lambda: monkeypatch.setattr(LocalStorage, method, fails))


def test_a_tar_that_ends_before_a_member_is_changed(tmp_path, read):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("1.png", build.png()), ("2.png", build.png())]))
    planned = path.stat()

    def is_cut():
        os.truncate(path, 512 + len(build.png()) + 400)
        os.utime(path, ns=(planned.st_atime_ns, planned.st_mtime_ns))

    assert reasons(read(path, is_cut)) == {"a.tar!1.png": None, "a.tar!2.png": "changed"}


def test_rows_of_a_table_are_read_and_refused_one_by_one(tmp_path, read):
    (tmp_path / "inside.png").write_bytes(build.png(7, 7))
    rows = [
        {"bytes": build.png(), "path": None},
        {"bytes": None, "path": "inside.png"},
        {"bytes": None, "path": "lost.png"},
        {"bytes": None, "path": "../outside.png"},
        {"bytes": b"x" * 2_000_000, "path": None},
        {"bytes": b"text", "path": None},
        None,
    ]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"image": rows}))
    shard = read(tmp_path / "t.parquet", configuration=config(max_bytes=1_000_000))
    assert list(reasons(shard).values()) == [
        *(None, None, "missing", "refused_uri"),
        *("too_many_bytes", "not_an_image", "empty_file"),
    ]
    assert (shard.images[1].height, shard.images[1].width) == (7, 7)
    assert set(reasons(shard).values()) - {None} <= set(FAILURE_REASONS)


def test_an_image_by_uri_that_is_a_byte_too_large_is_refused_and_never_cut(tmp_path, read):
    data = build.png(7, 7)
    # What is cut off does not show: half a file may decode.
    table = parquet_bytes({"uri": ["fits.png", "large.png"]})
    write_files(tmp_path, {"fits.png": data, "large.png": data + b"\0", "t.parquet": table})
    shard = read(tmp_path / "t.parquet", configuration=config(max_bytes=len(data)))
    assert list(reasons(shard).values()) == [None, "too_many_bytes"]


@pytest.fixture
def read_bucket(proxy, prover, s3_server, s3_bucket):
    """Write objects, plan them, let something happen, and read the shard; the proxy counts the reading alone."""
    client = s3_server.client()

    def put(objects: dict[str, bytes]) -> None:
        for key, data in objects.items():
            client.put_object(Bucket=s3_bucket, Key=f"set/{key}", Body=data)

    def plan_and_read(objects, meanwhile=lambda put, delete: None, faults=(), **source) -> Shard:
        put(objects)
        uri = f"s3://{s3_bucket}/set"
        configuration = config(source=SourceConfig(endpoint_url=proxy.endpoint_url, **source))
        entries = plan_of(open_source(uri, configuration.source).list())
        meanwhile(put, lambda key: client.delete_object(Bucket=s3_bucket, Key=f"set/{key}"))
        proxy.reset_counts()
        proxy.set_faults(faults)
        return read_shard(uri, configuration, entries, prover=prover)

    return plan_and_read


def images(count: int) -> dict[str, bytes]:
    return {f"{number:02d}.png": build.png(seed=number) for number in range(count)}


def test_an_image_is_one_request(read_bucket, proxy):
    wanted = images(20)
    assert [image.data for image in read_bucket(wanted).images] == list(wanted.values())
    # The listing is the look whether SOURCE is still there: once a shard.
    assert proxy.counts == {"GetObject": 20, "ListObjectsV2": 1}


def test_dots_in_the_place_of_a_folder_are_names_like_any_other(read_bucket):
    wanted = {key: build.png(seed=n) for n, key in enumerate(["../up.png", "./here.png", "a/../b/./c.png", "b/c.png"])}
    shard = read_bucket(wanted)
    assert {image.key: image.data for image in shard.images} == wanted


def test_what_changed_or_vanished_is_told_without_a_second_look_at_the_others(read_bucket, proxy):
    def meanwhile(put, delete):
        put({"01.png": build.png(seed=77)})
        delete("02.png")

    shard = read_bucket(images(5), meanwhile)
    assert list(reasons(shard).values()) == [None, "changed", "missing", None, None]
    # The missing one is asked for twice.
    assert proxy.counts["GetObject"] == 6


def test_an_archived_object_is_quarantined_at_once_with_the_remedy_and_the_others_are_read(
    read_bucket, s3_server, s3_bucket
):
    # Archived from the start: a change of the class changes the etag of some stores, not of others.
    s3_server.client().put_object(Bucket=s3_bucket, Key="set/99.png", Body=build.png(seed=9), StorageClass="GLACIER")
    shard = read_bucket(images(2))
    assert list(reasons(shard).values()) == [None, None, "archived"]
    assert shard.images[2].failure.message.startswith("the object is archived: restore it")


@pytest.mark.parametrize("name", ["", "a.tar", "t.parquet"])
def test_a_bucket_whose_readers_pay_is_read_if_the_setting_says_so(read_bucket, proxy, name):
    data = {
        "": build.png(),
        "a.tar": tar_bytes([("0.png", build.png())]),
        "t.parquet": parquet_bytes({"bytes": [build.png()]}),
    }[name]
    without = Fault("denied", lacks_header="x-amz-request-payer")
    proxy.set_faults([without])
    with pytest.raises(ConfigError, match=r"is denied.*source.requester_pays=true"):
        read_bucket({name or "0.png": data})
    shard = read_bucket({}, faults=[without], requester_pays=True)
    assert [image.data for image in shard.images] == [build.png()]
    assert not proxy.hits


@pytest.mark.slow
def test_a_bomb_in_a_table_costs_its_row_group_and_no_other(tmp_path, prover):
    rows = [build.png(1, 5), b"\0" * (65 * 2**20), build.png(2, 5), build.png(3, 5)]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"bytes": rows}, row_group_size=2))
    source, limits = str(tmp_path / "t.parquet"), config(max_bytes=1_000_000)
    entries = plan_of(open_source(source, SourceConfig()).list())
    spoiled, sound = (read_shard(source, limits, entries[n : n + 2], prover=prover) for n in (0, 2))
    # The bomb shares its page with the image before it.
    assert list(reasons(spoiled).values()) == ["too_many_bytes", "too_many_bytes"]
    assert "unpacks" in spoiled.images[1].failure.message
    assert list(reasons(sound).values()) == [None, None]
