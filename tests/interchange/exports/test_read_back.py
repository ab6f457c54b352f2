"""What is stored, or was written, otherwise than it was meant is told in every format; the export is not whole."""

from __future__ import annotations

import json
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS, cris, json_pairs, output_files, record, record_lists, webdataset
from pseudoris.interchange.exports.record import ExportMask
from pseudoris.primitives.errors import TransientError
from pseudoris.store.runs.lock import LOCK_FOLDER
from tests.interchange.exports.builders import export, stored

# What may happen to the bytes of a file; None is that it is lost.
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "another byte": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "cut short": lambda data: data[:-1],
    "missing": lambda _: None,
}


def kinds(root: Path) -> list[str]:
    """Return a file of each folder and suffix of an export, its records of itself left out."""
    found = {}
    for path in sorted(set(stored(root)) - {"_export.json", "croissant.json"}):
        found.setdefault(re.sub(r"\d+", "", str(Path(path).parent)) + Path(path).suffix, path)
    return list(found.values())


def damaged(place: RunLocation, path: str, what: str) -> Callable:
    """Return what makes of a method of locations one that damages a file before anything of the export is read."""
    lock, done, read = threading.RLock(), [], RunLocation.read_bytes

    def damaging(real: Callable) -> Callable:
        def first(self, *arguments, **named):
            with lock:
                is_of_export = not str(arguments[0]).startswith(LOCK_FOLDER)
                if self.root == place.root and is_of_export and not done:
                    done.append(1)
                    data = DAMAGES[what](read(self, path))
                    self.delete(path) if data is None else self.replace(path, data)
            return real(self, *arguments, **named)

        return first

    return damaging


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("name", EXPORTS)
def test_a_file_that_is_stored_otherwise_is_told_and_the_same_call_finishes_it(
    name, what, built_run, exported, tmp_path, monkeypatch
):
    for number, path in enumerate(kinds(exported(name)[0])):
        place = RunLocation.open(str(tmp_path / str(number)))
        told = f"{re.escape(path)} reads back differently|does not have exactly the files that were written"
        with monkeypatch.context() as patch:
            damaging = damaged(place, path, what)
            for each in ("read_bytes", "open_input"):
                patch.setattr(RunLocation, each, damaging(getattr(RunLocation, each)))
            with pytest.raises(TransientError, match=told):
                export(name, built_run, place)
        assert json.loads(place.read_bytes("_export.json"))["state"] == "begun"
    export(name, built_run, place)
    assert json.loads(place.read_bytes("_export.json"))["state"] == "whole"


def test_of_very_many_files_a_sample_is_read_and_the_report_says_so(built_run, place, tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "MAX_READ", 5)
    monkeypatch.setattr(output_files, "SAMPLE", 3)
    read, real = [], RunLocation.read_bytes

    def reading(self, path):
        if self.root == place.root and not path.startswith(LOCK_FOLDER):
            read.append(path)
        return real(self, path)

    monkeypatch.setattr(RunLocation, "read_bytes", reading)
    report = export("coco", built_run, place)
    assert len(read) == 3
    assert "the names and sizes of 8 small files, and the bytes of a sample of 3" in report.checked[-1]
    monkeypatch.setattr(RunLocation, "read_bytes", lambda self, path: real(self, path) + b"x" * (path == read[1]))
    with pytest.raises(TransientError, match="does not have exactly the files"):
        export("coco", built_run, tmp_path / "again")


# What spoils a record while it is written: a stand-in for a step that makes its bytes, by the formats that it is of.


def _replaced(old: str | bytes, new: str | bytes) -> Callable:
    return lambda real: lambda value, **options: real(value, **options).replace(old, new)


def _other_pixels(real: Callable) -> Callable:
    return lambda pixels: real(~pixels if pixels.dtype == bool else 255 - pixels)


def _shorter_rle(real: property) -> property:
    return property(lambda self: {**real.fget(self), "counts": real.fget(self)["counts"][:-1]})


OTHER_TEXT = _replaced("the red half", "the red calf")
JSON_LISTS = ("coco", "cris", "grefcoco", "label-studio", "llamafactory", "ms-swift", "odvg", "qwen", "sa2va", "sam3")
SPOILED = [
    *((name, output_files, "printable_json", OTHER_TEXT) for name in JSON_LISTS),
    *((name, json_pairs, "printable_json", OTHER_TEXT) for name in ("sa1b", "reasonseg")),
    ("webdataset", webdataset, "printable_json", OTHER_TEXT),
    *(
        (name, record, "corner_polygon", lambda real: lambda pixels: [(x + 1, y) for x, y in real(pixels)])
        for name in ("refer", "grefcoco")
    ),
    *((name, Image, "fromarray", _other_pixels) for name in ("cris", "lmdb", "hf", "pseudo-ris-csv")),
    *((name, ExportMask, "rle", _shorter_rle) for name in ("coco", "sam3", "sa1b", "webdataset")),
    ("label-studio", record_lists, "brush_strokes", _other_pixels),
    ("sa2va", record_lists, "decode_runs", lambda real: lambda counts: real(counts)[:-1]),
    ("lmdb", cris.pickle, "dumps", _replaced(b"the red half", b"the red calf")),
]


@pytest.mark.parametrize(
    ("name", "holder", "step", "spoil"), [pytest.param(*each, id=f"{each[0]}: {each[2]}") for each in SPOILED]
)
def test_a_record_that_decodes_to_another_mask_or_text_is_told(
    name, holder, step, spoil, built_run, place, monkeypatch
):
    monkeypatch.setattr(holder, step, spoil(getattr(holder, step)))
    with pytest.raises(TransientError, match=r"reads back differently: .* Run the same command again"):
        export(name, built_run, place)
    assert json.loads(place.read_bytes("_export.json"))["state"] == "begun"


def test_references_that_load_otherwise_than_they_were_written_are_told(built_run, place, monkeypatch):
    real = pickle.dump
    monkeypatch.setattr(pickle, "dump", lambda refs, file, **options: real(refs[1:], file, **options))
    with pytest.raises(TransientError, match=r"refs\(pseudo\)\.p reads back differently: its references"):
        export("refer", built_run, place)


def test_every_format_but_parquet_is_spoiled():
    # `parquet` holds the rows of the run's tables as they are.
    assert {name for name, *_ in SPOILED} == EXPORTS.keys() - {"parquet"}
