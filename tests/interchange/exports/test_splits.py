"""Every format writes the splits of a run as its readers read them, and one split where one is named."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image
from pycocotools.mask import decode

from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import decode_upright
from pseudoris.interchange.exports import EXPORTS, ExportOptions, export_request
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import pseudoris_here
from tests.builders.images import encode, oriented
from tests.interchange.exports.builders import PICTURES, BuiltRun, build_run, export, request_for
from tests.interchange.exports.loading import load_sa1b, load_webdataset
from tests.interchange.exports.readers_coco import read_instances
from tests.interchange.exports.readers_conversations import read_factory, read_odvg, read_qwen, read_swift
from tests.interchange.exports.readers_cris import CrisDataset, decode_record, folder2records
from tests.interchange.exports.readers_label_studio import read_label_studio
from tests.interchange.exports.readers_masks import read_grefcoco, read_reasonseg, read_sa2va, read_sam3
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset
from tests.interchange.exports.readers_refer import LavtDataset
from tests.store.builders import HEIGHT, WIDTH

HAS_PLAIN_PATHS = True
SPLITS = ("train", "val")
ONE_SPLIT = ("label-studio", "pseudo-ris-csv")
# Of an image's id, a text ("" where a mask has none), what it has (masks, boxes or an answer) as bytes, and the pixels
# that the format shows.
Found = set[tuple[str, str, bytes, bytes]]


def of_name(path: object) -> str:
    return Path(str(path)).stem.rpartition("_")[2]


def refer(root: Path, split: str) -> Iterator[tuple]:
    dataset = LavtDataset(root, split)
    for path, mask, texts in (dataset[at] for at in range(len(dataset))):
        yield from ((of_name(path), text, mask, path) for text in texts)


def cris(root: Path, split: str) -> Iterator[tuple]:
    for record in folder2records(root, "refcoco", split):
        _, mask, texts = decode_record(record)
        yield from ((of_name(record["img_name"]), text, mask, record["img"]) for text in texts)


def lmdb(root: Path, split: str) -> Iterator[tuple]:
    with closing(CrisDataset(root, "refcoco", split)) as dataset:
        for record in (dataset[at] for at in range(len(dataset))):
            _, mask, texts = decode_record(record)
            yield from ((of_name(record["img_name"]), text, mask, record["img"]) for text in texts)


def coco(root: Path, split: str) -> Iterator[tuple]:
    for image, _, mask, texts in read_instances(root, split):
        path = root / "images" / image["file_name"]
        yield from ((of_name(path), text, mask, path) for text in texts or [""])


def sa1b(root: Path, split: str) -> Iterator[tuple]:
    listed = root / "splits.csv"
    rows = csv.DictReader(listed.read_text("utf-8").splitlines()) if listed.exists() else ()
    splits = {Path(row["file_name"]).name: row["split"] for row in rows}
    for mask in load_sa1b(root):
        if splits.get(mask.file_name, split) == split:
            yield from ((mask.image_id, text, mask.mask, mask.image) for text in mask.texts or [""])


def webdataset(root: Path, split: str) -> Iterator[tuple]:
    for mask in load_webdataset(root):
        yield from ((Path(mask.file_name).stem, text, mask.mask, mask.image) for text in mask.texts)


def hf(root: Path, split: str) -> Iterator[tuple]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        import datasets

        found = datasets.load_dataset(str(root), cache_dir=tempfile.mkdtemp(dir=root.parent))
    for row in found[split]:
        for mask in row["masks"]:
            # It gives masks as pictures of 0 and 255.
            said = np.asarray(mask["mask"]) == 255
            yield from ((row["image_id"], text, said, encode(row["image"])) for text in mask["expressions"])


def reasonseg(root: Path, split: str) -> Iterator[tuple]:
    for path, text, masks in read_reasonseg(root, split=split):
        yield json.loads(path.with_suffix(".json").read_text("utf-8"))["source_image_id"], text, masks[0], path


def label_studio(root: Path, split: str) -> Iterator[tuple]:
    for path, regions, alone in read_label_studio(root):
        yield from ((of_name(path), text, mask, path) for mask, texts in regions.values() for text in texts or [""])
        yield from ((of_name(path), text, [], path) for text in alone)


def pseudo_ris(root: Path, split: str) -> Iterator[tuple]:
    dataset = PseudoDataset(root)
    for row in (dataset[at] for at in range(len(dataset))):
        yield from ((of_name(row.img_name), text, row.mask, row.image) for text in row.captions)


def rows(read: Callable, root: Path, split: str) -> Iterator[tuple]:
    for path, text, said in read(root):
        yield of_name(path), text, said, path


def factory(root: Path, split: str) -> Iterator[tuple]:
    names = json.loads((root / "dataset_info.json").read_text("utf-8"))
    return rows(partial(read_factory, name=f"pseudoris_{split}" if len(names) > 1 else "pseudoris"), root, split)


def grefcoco(root: Path, split: str) -> Iterator[tuple]:
    return rows(partial(read_grefcoco, split=split), root, split)


def parquet(root: Path, split: str) -> Iterator[tuple]:
    said, masks = (ds.dataset(root / name, format="parquet").to_table().to_pylist() for name in (EXPRESSIONS, MASKS))
    pixels = {row["mask_id"]: decode(row["segmentation"]) for row in masks}
    for row in said:
        if row["split"] in (split, None) and row["kept"]:
            yield row["image_id"], row["text"], [pixels[each] for each in row["target_mask_ids"]], b""


READERS: dict[str, Callable[[Path, str], Iterator[tuple]]] = {
    **{"parquet": parquet, "refer": refer, "cris": cris, "lmdb": lmdb, "coco": coco, "sa1b": sa1b, "hf": hf},
    **{"webdataset": webdataset, "pseudo-ris-csv": pseudo_ris, "label-studio": label_studio, "reasonseg": reasonseg},
    **{"llamafactory": factory, "grefcoco": grefcoco, "sam3": partial(rows, read_sam3)},
    **{"ms-swift": partial(rows, read_swift), "qwen": partial(rows, read_qwen), "odvg": partial(rows, read_odvg)},
    "sa2va": partial(rows, read_sa2va),
}


def read(name: str, root: Path, split: str) -> Found:
    """Return what the reader of a format finds in a split; one that opens one file is given that of the split."""
    ours = Path(tempfile.mkdtemp(dir=root.parent)) / "view"
    shutil.copytree(root, ours)
    if name not in ("coco", "sa1b"):
        for path in sorted(ours.glob(f"*_{split}.json*")):
            path.rename(path.with_name(path.name.replace(f"_{split}.", ".")))
    if name == "llamafactory":
        shutil.rmtree(ours)
        shutil.copytree(root, ours)
    found = {(image, text, said_bytes(said), shown(data)) for image, text, said, data in READERS[name](ours, split)}
    shutil.rmtree(ours.parent)
    return found


def shown(picture: Path | bytes) -> bytes:
    """Return the upright pixels of a picture; nothing for none."""
    return _pixels(picture.read_bytes() if isinstance(picture, Path) else picture)


@cache
def _pixels(data: bytes) -> bytes:
    return decode_upright(data, ImagesConfig()).tobytes() if data else b""


def said_bytes(said: object) -> bytes:
    if isinstance(said, bytes | str):
        return said if isinstance(said, bytes) else said.encode()
    # A format of boxes gives them as numbers, a format of masks as pixels.
    return b"".join(np.asarray(each, np.float32).tobytes() for each in (said if isinstance(said, list) else [said]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[BuiltRun, BuiltRun, dict[str, str]]:
    """Return one run of two without and with splits, and the split of each image; one image is in none."""
    folder = tmp_path_factory.mktemp("splits")
    first, second = build_run(folder / "1"), build_run(folder / "2", PICTURES[:4], per_shard=2)
    for run in (first, second):
        write_manifest(run.location)
    given = [("one", first.location), ("two", second.location)]
    built = []
    for name, hold_out in (("plain", None), ("split", HoldOut.of({"val": 0.5}))):
        combine(given, location := RunLocation.open(str(folder / name)), hold_out=hold_out)
        built.append(BuiltRun(location, require_header(location), ()))
    table = OpenRun.at(built[1].location).table(IMAGES, ("image_id", "split")).to_pylist()
    splits = {row["image_id"]: row["split"] for row in table if row["split"]}
    assert {*splits.values()} == {*SPLITS}
    return built[0], built[1], splits


def test_a_reader_stands_for_each_format():
    assert READERS.keys() == EXPORTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPORTS))
@pytest.mark.long
def test_each_split_has_what_its_images_have_without_splits(name, runs, tmp_path):
    plain, split, of = runs
    export(name, plain, tmp_path / "plain", max_tokens=0)
    due = read(name, tmp_path / "plain", "train")
    if name not in ONE_SPLIT:
        export(name, split, tmp_path / "all", max_tokens=0)
        for each in SPLITS:
            found = read(name, tmp_path / "all", each)
            assert found == {row for row in due if of[row[0]] == each}, each
            assert found
        tree = json.loads((tmp_path / "all/croissant.json").read_text("utf-8"))
        assert [row["splits/name"] for row in tree["recordSet"][0]["data"]] == [*SPLITS]
    export(name, split, tmp_path / "one", max_tokens=0, split="val")
    assert read(name, tmp_path / "one", "val") == {row for row in due if of[row[0]] == "val"}


def test_what_is_in_no_split_is_left_out_and_counted(tmp_path, runs):
    third = build_run(
        tmp_path / "3", (("new.jpg", oriented(Image.new("RGB", (WIDTH, HEIGHT)), 1), (("a new thing",),)),)
    )
    write_manifest(third.location)
    location = RunLocation.open(str(tmp_path / "more"))
    combine([("s", runs[1].location), ("t", third.location)], location)
    assert require_header(location).splits.images[""] > 0
    report = export("coco", BuiltRun(location, require_header(location), ()), tmp_path / "out")
    # The image without a mask is there too; the quarantined one is not counted.
    assert report.dropped["images that are in no split"] == 1
    assert not any("a new thing" in path.read_text("utf-8") for path in (tmp_path / "out/annotations").iterdir())


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("label-studio", None, "--format label-studio has one split, and .* has train, val: give --split NAME"),
        ("pseudo-ris-csv", None, "give --split NAME"),
        (
            "coco",
            "test",
            r"has no split 'test', but train \(\d+ images\), val \(\d+ images\): give --split one of these",
        ),
    ],
)
def test_a_split_that_is_needed_or_not_there_is_told(name, split, said, runs, tmp_path):
    with pytest.raises(ConfigError, match=said):
        export_request(runs[1].location.root, str(tmp_path / "x"), name, ExportOptions(split=split))


def test_a_split_of_a_run_without_splits_is_a_name_where_its_format_has_one(runs, tmp_path):
    with pytest.raises(ConfigError, match="--format sa2va does not use --split"):
        export_request(runs[0].location.root, str(tmp_path / "x"), "sa2va", ExportOptions(split="val"))
    export_request(runs[0].location.root, str(tmp_path / "x"), "coco", ExportOptions(split="val2017"))
    for split in (None, "val"):
        export_request(runs[1].location.root, str(tmp_path / "x"), "sa2va", ExportOptions(split=split))


def test_exports_of_one_split_and_of_all_have_other_digests_and_that_of_none_is_as_it_was(runs, tmp_path):
    plain, split, _ = runs
    digests = {request_for(split, tmp_path, split=each).digest for each in (None, *SPLITS)}
    assert len(digests) == 3
    assert request_for(plain, tmp_path).digest == request_for(plain, tmp_path, split="train").digest


def test_the_command_line_writes_a_split(runs, tmp_path):
    words = ("export", runs[1].location.root, "out", "--format", "coco", "--split", "val")
    pseudoris_here(*words, cwd=tmp_path, code=0)
    assert sorted(path.name for path in (tmp_path / "out/annotations").iterdir()) == [
        "captions_val.json",
        "instances_val.json",
    ]
    refused = pseudoris_here(*words[:4], "label-studio", cwd=tmp_path, code=2)
    assert "give --split NAME" in refused.stderr
    assert "Traceback" not in refused.stderr
