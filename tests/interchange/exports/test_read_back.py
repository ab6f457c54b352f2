"""What is not as it was written is told, in every format, and the export is not marked whole."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS
from pseudoris.primitives.errors import TransientError
from tests.builders.images import encode
from tests.interchange.exports.builders import UPRIGHT, export

Damage = Callable[[RunLocation], None]
COCO_INSTANCES, COCO_CAPTIONS = "annotations/instances_train.json", "annotations/captions_train.json"
PSEUDO_CSV = "pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv"
TAR, ROWS, RECORD = "data-*-000000.tar", "data/train-00000.parquet", "sa_000000/sa_1.json"
LIST, LINES, TASKS = "annotations.json", "annotations.jsonl", "tasks.json"
GREFS, GREF_INSTANCES = "grefcoco/grefs(unc).json", "grefcoco/instances.json"
REASON = "reason_seg/ReasonSeg/train/000000001.json"
REFS, REFER_INSTANCES = "refcoco/refs(pseudo).p", "refcoco/instances.json"


def whole(pattern: str, change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of the one file of a pattern."""

    def damage(place: RunLocation) -> None:
        folder = pattern.rpartition("/")[0]
        paths = [f"{folder}/{file.name}".removeprefix("/") for file in place.list(folder)]
        (path,) = [path for path in paths if fnmatchcase(path, pattern)]
        place.replace(path, change(place.read_bytes(path)))

    return damage


def text(path: str, old: str, new: str) -> Damage:
    """Replace the first `old` of a text file."""

    def replaced(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return whole(path, replaced)


def tree(path: str, change: Callable, *, loads=json.loads, dumps=lambda held: json.dumps(held).encode()) -> Damage:
    """Change what a file holds, in place."""

    def changed(data: bytes) -> bytes:
        held = loads(data)
        change(held)
        return dumps(held)

    return whole(path, changed)


def refs(change: Callable[[list], object]) -> Damage:
    return tree(REFS, change, loads=pickle.loads, dumps=lambda held: pickle.dumps(held, protocol=2))


def first_row(change: Callable[[dict], object]) -> Damage:
    """Change the first of the rows for `datasets`."""

    def changed(data: bytes) -> bytes:
        table, file = pq.read_table(io.BytesIO(data)), io.BytesIO()
        rows = table.to_pylist()
        change(rows[0])
        pq.write_table(type(table).from_pylist(rows, table.schema), file)
        return file.getvalue()

    return whole(ROWS, changed)


def mask_of(value: int, size: tuple[int, int]) -> Callable[[dict], object]:
    """Fill the first mask of a row with one value; `size` is (width, height)."""
    return lambda row: row["masks"][0]["mask"].update(bytes=encode(Image.new("L", size, value)))


def entries(change: Callable[[list], list]) -> Damage:
    """Change the list of (name, data) of the tar."""

    def rewritten(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in change(found):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return file.getvalue()

    return whole(TAR, rewritten)


def record(**changes) -> Callable[[list], list]:
    def change(found: list) -> list:
        image, (name, data), *rest = found
        return [image, (name, json.dumps({**json.loads(data), **changes}).encode()), *rest]

    return change


def another_pixel(place: RunLocation) -> None:
    path = f"masks/refcoco/{next(iter(place.list('masks/refcoco'))).name}"
    pixels = np.asarray(Image.open(io.BytesIO(place.read_bytes(path)))).copy()
    pixels[0, 0] ^= 255
    place.replace(path, encode(pixels))


def record_of(path: str, change: Callable[[dict], object]) -> Damage:
    """Change the first record of a list, or of a file of a record a line, in place."""
    begins, separator, ends = ("", "\n", "\n") if path.endswith(".jsonl") else ("[\n", ",\n", "\n]\n")

    def changed(data: bytes) -> bytes:
        lines = [line for line in data.decode().splitlines() if line not in ("[", "]")]
        rows = [json.loads(line.removesuffix(",")) for line in lines]
        change(rows[0])
        return (begins + separator.join(map(json.dumps, rows)) + ends).encode()

    return whole(path, changed)


def first_region(change: Callable[[dict], object]) -> Damage:
    """Change the first region of the first of Label Studio's tasks."""
    return record_of(TASKS, lambda task: change(task["predictions"][0]["result"][0]))


def stroke(place: int, value: int) -> Damage:
    """Change a byte of its brush strokes: the seventh is of a length, the eighth of a value."""
    return first_region(lambda region: region["value"]["rle"].__setitem__(place, value))


WIDE = UPRIGHT.shape[1::-1]
# (format, what is damaged, the damage, what is told of it), and options of the export where it needs some.
DAMAGE: list[tuple] = [
    ("coco", "an empty caption", text(COCO_CAPTIONS, '"caption":"the red half"', '"caption":" "'), "empty"),
    ("coco", "a caption of another mask", text(COCO_CAPTIONS, '"instance_id":2', '"instance_id":3'), "caption"),
    ("coco", "a caption of no mask", text(COCO_CAPTIONS, '"instance_id":1,', '"instance_id":99,'), "again"),
    ("coco", "another size", text(COCO_INSTANCES, '"size":[12,20]', '"size":[20,12]'), "has the size"),
    ("coco", "no encoding", text(COCO_INSTANCES, '"counts":"', '"no":"'), "annotation 1 .*not a compressed run"),
    (
        "coco",
        "other counts",
        text(COCO_INSTANCES, '"counts":"', '"counts":"a1","x":"'),
        "annotation 1 .*does not decode",
    ),
    ("coco", "an empty mask", text(COCO_INSTANCES, '"counts":"', '"counts":"`7","x":"'), "annotation 1 .*no pixel"),
    ("coco", "another box", text(COCO_INSTANCES, '"bbox":[3,2,', '"bbox":[3,3,'), "box or area"),
    ("coco", "an id twice", text(COCO_INSTANCES, '{"id":2,"image_id":1', '{"id":1,"image_id":1'), "rising"),
    ("coco", "an id that is no number", text(COCO_INSTANCES, '{"id":1,"file_name"', '{"id":"1","file_name"'), "again"),
    ("coco", "another text", text(COCO_CAPTIONS, "the red half", "the red calf"), "reads back differently"),
    ("coco", "a file cut short", whole(COCO_INSTANCES, lambda data: data[:-4]), "ends before"),
    ("coco", "half an image", whole(COCO_INSTANCES, lambda data: data[:40]), "is not readable JSON"),
    ("coco", "another expression", text(COCO_INSTANCES, "the red half", "the red calf"), "its expressions are not"),
    ("cris", "another pixel", another_pixel, "reads back differently"),
    ("cris", "another text", text("anns/refcoco/train.json", "the red half", "the red calf"), "differently"),
    ("grefcoco", "a mask of another image", text(GREFS, '"ann_id":[1]', '"ann_id":[3]'), "that is not of its image"),
    ("grefcoco", "an empty text", text(GREFS, '"sent":"the red half"', '"sent":" "'), "empty"),
    ("grefcoco", "no mask", text(GREFS, '"ann_id":[1]', '"ann_id":[-1]'), "differently"),
    (
        "grefcoco",
        "another corner",
        text(GREF_INSTANCES, '"segmentation":[[4,2,9,2', '"segmentation":[[4,2,8,2'),
        "box or",
    ),
    ("grefcoco", "a bare encoding", text(GREF_INSTANCES, '"segmentation":[[', '"segmentation":["",['), "again"),
    ("grefcoco", "a reference twice", text(GREFS, '"ref_id":2', '"ref_id":1'), "rising"),
    ("grefcoco", "a reference of no image", text(GREFS, '"image_id":1', '"image_id":9'), "out of order"),
    ("hf", "a mask of another size", first_row(mask_of(255, (3, 3))), "it has the size"),
    ("hf", "a mask with other values", first_row(mask_of(128, WIDE)), "0 and 255"),
    ("hf", "another mask", first_row(mask_of(255, WIDE)), "differently"),
    ("hf", "an empty text", first_row(lambda row: row["masks"][0].update(expressions=[" "])), "empty"),
    ("hf", "no text", first_row(lambda row: row["masks"][0].update(expressions=[], distinctiveness=[])), "expression"),
    ("hf", "an image that does not read", first_row(lambda row: row["image"].update(bytes=b"none")), "cannot be read"),
    ("hf", "another size of the image", first_row(lambda row: row.update(height=20, width=12)), "has the size"),
    ("hf", "a file cut short", whole(ROWS, lambda data: data[:-100]), "train-00000"),
    (
        "hf",
        "another text of the other layout",
        first_row(lambda row: row["objects"]["expressions"].__setitem__(0, ["another text"])),
        "reads back",
        {"layout": "objects"},
    ),
    ("label-studio", "another stroke", stroke(7, 7), "differently"),
    ("label-studio", "another size", first_region(lambda region: region.update(original_width=9)), "have the size"),
    ("label-studio", "other values", stroke(8, 64), "other values than 0 and 255"),
    ("label-studio", "another text", text(TASKS, "the red half", "the red calf"), "differently"),
    ("label-studio", "a region without a mask", text(TASKS, '"from_name":"mask"', '"from_name":"text"'), "differently"),
    (
        "llamafactory",
        "another label",
        text(LIST, '\\"label\\": \\"the red', '\\"label\\": \\"a red'),
        "do not have its text and its boxes",
    ),
    ("llamafactory", "another box", text(LIST, "[150, 167,", "[150, 168,"), "differently"),
    ("llamafactory", "a record less", whole(LIST, lambda data: b"[\n" + data.partition(b",\n")[2]), "again"),
    ("ms-swift", "a placeholder less", text(LINES, "<bbox>", ""), "do not have its text and its boxes"),
    ("ms-swift", "another box", text(LINES, "[[3,2,9,7]]", "[[3,2,9,6]]"), "differently"),
    ("ms-swift", "half a line", whole(LINES, lambda data: data[:-9]), "middle of a line"),
    ("odvg", "another phrase", text(LINES, '"phrase":"the red', '"phrase":"a red'), "another phrase"),
    ("odvg", "another span", text(LINES, '"tokens_positive":[[0,', '"tokens_positive":[[1,'), "another phrase"),
    ("odvg", "another box", text(LINES, "[[3,2,9,7]]", "[[3,2,9,6]]"), "differently"),
    ("parquet", "a byte", whole("images/*.parquet", lambda data: data[:-1] + bytes([data[-1] ^ 1])), "differently"),
    ("pseudo-ris-csv", "an empty caption", text(PSEUDO_CSV, "'the red half'", "''"), "empty"),
    ("pseudo-ris-csv", "one score less", text(PSEUDO_CSV, "[0.5, ", "["), "lengths"),
    ("pseudo-ris-csv", "a score that is no number", text(PSEUDO_CSV, "[0.5, ", "[None, "), "finite"),
    ("pseudo-ris-csv", "what does not evaluate", text(PSEUDO_CSV, "['the red", "[the red"), "evaluate"),
    ("pseudo-ris-csv", "another image", text(PSEUDO_CSV, ".jpg,1,0,", ".jpg,2,0,"), "again"),
    ("pseudo-ris-csv", "another caption", text(PSEUDO_CSV, "the red half", "the red calf"), "differently"),
    (
        "pseudo-ris-csv",
        "a missing mask",
        lambda place: place.delete("datasets/pseudo_masks/cutler_sam/2/0.png"),
        r"cutler_sam/2/0\.png reads back differently: it is missing",
    ),
    ("qwen", "another box", text(LIST, "[150, 167,", "[150, 168,"), "differently"),
    (
        "qwen",
        "an answer that is no list",
        record_of(LIST, lambda row: row["conversations"][1].update(value="no")),
        "again",
    ),
    ("reasonseg", "another point", text(REASON, "[4, 2]", "[4, 3]"), "differently"),
    ("reasonseg", "an empty text", text(REASON, '"the red half"', '" "'), "empty"),
    ("reasonseg", "not the JSON", whole(REASON, lambda _: b"{"), "not the JSON of an image"),
    ("reasonseg", "a missing JSON", lambda place: place.delete(REASON), "it is missing"),
    ("refer", "a sentence's id", refs(lambda held: held[0]["sent_ids"].pop()), "its references are not those"),
    (
        "refer",
        "a mask that does not decode",
        text(REFER_INSTANCES, '"segmentation":[[', '"segmentation":[[1,'),
        "the mask of annotation 1: ",
    ),
    ("sa1b", "not the JSON", whole(RECORD, lambda _: b"{"), "not the JSON of an image"),
    ("sa1b", "another image's", tree(RECORD, lambda held: held["image"].update(image_id=2)), "belongs to image 2"),
    ("sa1b", "another mask", tree(RECORD, lambda held: held["annotations"].reverse()), "rising"),
    ("sa1b", "a missing mask", tree(RECORD, lambda held: held["annotations"].pop()), "masks with"),
    ("sa1b", "a missing JSON", lambda place: place.delete("sa_000000/sa_2.json"), r"sa_2\.json .*: it is missing"),
    ("sa2va", "a run less", record_of(LIST, lambda row: row["mask"][0][0]["counts"].pop()), "record 1 .*differently"),
    ("sa2va", "a compressed encoding", record_of(LIST, lambda row: row["mask"][0].append(1)), "again"),
    ("sa2va", "a text less", record_of(LIST, lambda row: row["text"].pop()), "one mask for each text"),
    ("sam3", "another category", text(LIST, '"name":"the red half"', '"name":"the red calf"'), "others than the texts"),
    ("sam3", "a mask of another text", text(LIST, '"category_id":1,', '"category_id":2,'), "12 masks with 10"),
    ("sam3", "a negative", text(LIST, '"negative_category_ids":[]', '"negative_category_ids":[9]'), "again"),
    ("sam3", "another box", text(LIST, '"bbox":[3,2,', '"bbox":[3,3,'), "box or area"),
    ("webdataset", "a tar cut short", whole(TAR, lambda data: data[:1_500]), "again"),
    ("webdataset", "a byte", whole(TAR, lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:]), "again"),
    ("webdataset", "a sample twice", entries(lambda found: found[:2] + found), "appears twice"),
    ("webdataset", "a sample missing", entries(lambda found: found[2:]), "from the index"),
    ("webdataset", "an image without masks", entries(lambda found: found[:1] + found[2:]), "different samples"),
    ("webdataset", "another size", entries(record(height=20, width=12)), "has the size"),
    ("webdataset", "no index", whole("index.json", lambda _: b"[" * 100_000), "not an index of tars"),
    ("webdataset", "an index of less", whole("index.json", lambda _: b'{"shardlist": [{"url": "x"}]}'), "not an index"),
]


def test_every_format_is_damaged():
    # test_cris.py damages `lmdb`.
    assert {name for name, *_ in DAMAGE} == EXPORTS.keys() - {"lmdb"}


@pytest.mark.parametrize(
    ("name", "damage", "message", "options"),
    [
        pytest.param(name, damage, message, dict(*options), id=f"{name}: {what}")
        for name, what, damage, message, *options in DAMAGE
    ],
)
def test_what_does_not_read_back_is_told_and_the_same_call_finishes_it(
    name, damage, message, options, built_run, place, monkeypatch
):
    lock, done = threading.RLock(), []

    def damaging(real: Callable) -> Callable:
        def first(self, *arguments, **named):
            # Before anything of the written export is read, in whatever thread.
            with lock:
                if self.root == place.root and not done:
                    done.append(1)
                    damage(place)
            return real(self, *arguments, **named)

        return first

    for each in ("read_bytes", "open_input"):
        monkeypatch.setattr(RunLocation, each, damaging(getattr(RunLocation, each)))
    with pytest.raises(TransientError, match=message):
        export(name, built_run, place, **options)
    monkeypatch.undo()
    assert json.loads(place.read_bytes("_export.json"))["state"] == "begun"
    export(name, built_run, place, **options)
    # The record of `parquet` has no state once it is whole.
    assert json.loads(place.read_bytes("_export.json")).get("state") == (None if name == "parquet" else "whole")
