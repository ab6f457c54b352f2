"""The WebDataset export through the webdataset package and the index through wids' rules."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from pycocotools import mask as coco

from pseudoris.schemas.errors import TransientError
from pseudoris.store.location import RunLocation
from pseudoris.training.exports import webdataset as webdataset_export
from tests.training.exports.builders import UPRIGHT, export, stored
from tests.training.exports.readers_webdataset import read_index, read_samples

SMALL = 20_000


@pytest.fixture
def root(built_run, place) -> Path:
    export("webdataset", built_run, place)
    return Path(place.root)


def tars(root: Path) -> list[Path]:
    return sorted(root.glob("data-*.tar"))


def test_the_package_decodes_images_and_json_by_their_extensions(root):
    decoded = list(webdataset.WebDataset([str(path) for path in tars(root)], shardshuffle=False).decode("rgb8"))
    for sample in decoded:
        image = sample["jpg"] if "jpg" in sample else sample["png"]
        assert image.shape == (sample["json"]["height"], sample["json"]["width"], 3) == UPRIGHT.shape
        for mask in sample["json"]["masks"]:
            assert coco.decode(mask["segmentation"]).shape == image.shape[:2]
    assert decoded


def test_a_sample_is_an_image_and_a_json_side_by_side_under_the_images_id(root):
    with tarfile.open(tars(root)[0]) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    for image, record in zip(names[::2], names[1::2], strict=True):
        assert Path(image).stem == Path(record).stem
        # The package cuts a key at the first dot: the id has none.
        assert Path(image).stem.isalnum()
        assert (Path(image).suffix in (".jpg", ".png"), Path(record).suffix) == (True, ".json")


def test_tars_stay_below_the_target_size_and_the_index_adds_up(built_run, place):
    report = export("webdataset", built_run, place, target_bytes=SMALL)
    root = Path(place.root)
    assert report.files["samples"] == len(tars(root)) > 1
    assert all(path.stat().st_size <= SMALL for path in tars(root))
    shards = read_index(root / "index.json")
    assert [shard["url"] for shard in shards] == [path.name for path in tars(root)]
    assert sum(shard["nsamples"] for shard in shards) == report.rows["samples"] == len(list(read_samples(root)))
    for shard in shards:
        assert (
            sum(1 for _ in webdataset.WebDataset([str(root / shard["url"])], shardshuffle=False)) == shard["nsamples"]
        )


def test_a_sample_larger_than_the_target_has_a_tar_of_its_own(built_run, place):
    report = export("webdataset", built_run, place, target_bytes=1)
    assert report.files["samples"] == report.rows["samples"] == len(built_run.with_texts())


def test_the_index_is_what_wids_calls_a_shard_index(root):
    tree = json.loads((root / "index.json").read_text())
    assert (tree["__kind__"], tree["wids_version"]) == ("wids-shard-index-v1", 1)
    for shard in tree["shardlist"]:
        assert {key: type(value) for key, value in shard.items()} == {
            "url": str,
            "md5sum": str,
            "nsamples": int,
            "filesize": int,
        }


def test_headers_hold_no_time_and_no_owner(root):
    with tarfile.open(tars(root)[0]) as tar:
        for entry in tar:
            assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode) == (0, 0, 0, "", "", 0o644)
            assert not entry.pax_headers


def test_every_expression_has_its_scores(root, built_run):
    masks = [mask for sample in read_samples(root) for mask in json.loads(sample["json"])["masks"]]
    assert masks
    for mask in masks:
        for expression in mask["expressions"]:
            assert set(expression) == {
                "text", "head_noun", "uniqueness", "correctness", "distinctiveness", "weight",
            }  # fmt: skip
            assert expression["correctness"] == 0.5


def test_samples_come_in_the_order_of_the_plan_with_the_keys_of_the_run(root, built_run):
    keys = [json.loads(sample["json"])["key"] for sample in read_samples(root)]
    assert keys == [image.key for image in built_run.truth if image.image_id in built_run.with_texts()]


def rewritten(data: bytes, change) -> bytes:
    """Return a tar whose list of (name, data) went through `change`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in change(entries):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def record_changed(entries, **changes):
    (image, (name, record), *rest) = entries
    return [image, (name, json.dumps({**json.loads(record), **changes}).encode()), *rest]


DAMAGE = {
    "cut short": lambda data: data[:1_500],
    "a byte of an image": lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:],
    "a sample twice": lambda data: rewritten(data, lambda entries: entries[:2] + entries),
    "a sample missing": lambda data: rewritten(data, lambda entries: entries[2:]),
    "an image without its masks": lambda data: rewritten(data, lambda entries: entries[:1] + entries[2:]),
    "another size": lambda data: rewritten(data, lambda entries: record_changed(entries, height=20, width=12)),
    "no masks": lambda data: rewritten(data, lambda entries: record_changed(entries, masks=[])),
}


@pytest.mark.parametrize("index", ["[" * 100_000, "[]", "{", '{"shardlist": [{"url": "data-000000.tar"}]}'])
def test_an_index_that_is_none_is_told(index, built_run, place, monkeypatch):
    real = webdataset_export.check_tars

    def damaged(destination, *arguments, **options):
        destination.replace("index.json", index.encode())
        real(destination, *arguments, **options)

    monkeypatch.setattr(webdataset_export, "check_tars", damaged)
    with pytest.raises(TransientError, match=r"index\.json reads back differently: it is not an index of tars"):
        export("webdataset", built_run, place)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_read_back_is_told(damage, built_run, place, monkeypatch):
    real = webdataset_export.check_tars

    def damaged(destination, *arguments, **options):
        destination.replace("data-000000.tar", DAMAGE[damage](destination.read_bytes("data-000000.tar")))
        real(destination, *arguments, **options)

    monkeypatch.setattr(webdataset_export, "check_tars", damaged)
    with pytest.raises(TransientError, match="Run the same command again"):
        export("webdataset", built_run, place)


def test_the_bytes_do_not_depend_on_when_and_where_they_are_written(built_run, place, tmp_path, monkeypatch):
    export("webdataset", built_run, place, target_bytes=SMALL)
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    other = RunLocation.open(str(tmp_path / "other"))
    export("webdataset", built_run, other, target_bytes=SMALL)
    assert stored(place.root) == stored(other.root)
    assert all(place.read_bytes(path) == other.read_bytes(path) for path in stored(place.root))


def test_masks_are_those_of_the_run(root, built_run):
    due = built_run.with_texts()
    for sample in read_samples(root):
        masks = json.loads(sample["json"])["masks"]
        pixels = [coco.decode(mask["segmentation"]).astype(bool) for mask in masks]
        assert all(map(np.array_equal, pixels, [mask.pixels for mask in due[sample["__key__"]]]))
