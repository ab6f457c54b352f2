"""An export stands whole or is known not to: killed, repeated, replaced, or aimed at a place that holds other files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pseudoris.interchange.exports import EXPORTS, find_export
from pseudoris.interchange.exports.destination import EXPORT_NAME
from pseudoris.interchange.exports.export_job import ExportJob
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.files.key_order import path_key
from pseudoris.store.location import RunLocation
from tests.builders.memory import TRIES, least_peak_bytes
from tests.interchange.exports.builders import PICTURES, build_run, export, jpeg, request_for, stored

FORMATS = sorted(EXPORTS.keys() - {"parquet"})
# `refer` holds its references in memory as its loaders do; the checks of the others take more at a time than these
# small runs have.
STREAMED = sorted(EXPORTS.keys() - {"refer", "cris", "lmdb", "sam3", "parquet"})


def contents(root: Path | str) -> dict[str, bytes]:
    return {path: (Path(root) / path).read_bytes() for path in stored(root)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_export_is_no_whole_one_and_the_same_call_finishes_it(name, built_run, place, tmp_path, monkeypatch):
    real = ExportJob.images

    def dying(self):
        for number, image in enumerate(real(self)):
            if number == 3:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(ExportJob, "images", dying)
    with pytest.raises(KeyboardInterrupt):
        export(name, built_run, place)
    assert b'"begun"' in place.read_bytes(EXPORT_NAME)
    assert not [path for path in stored(place.root) if path.endswith((".tmp", ".0")) or "/.tmp-" in f"/{path}"]
    monkeypatch.undo()
    export(name, built_run, place)
    export(name, built_run, RunLocation.open(str(tmp_path / "at once")))
    assert contents(place.root) == contents(tmp_path / "at once")


@pytest.mark.parametrize("name", EXPORTS)
def test_a_smaller_export_leaves_nothing_of_the_one_it_replaces(name, built_run, place, tmp_path):
    smaller = build_run(RunLocation.open(str(tmp_path / "smaller")), PICTURES[:2])
    export(name, built_run, place)
    with pytest.raises(ConfigError, match=r"already has an export. .*--overwrite"):
        export(name, smaller, place)
    export(name, smaller, place, is_overwriting=True)
    export(name, smaller, RunLocation.open(str(tmp_path / "fresh")))
    assert contents(place.root) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", EXPORTS)
def test_a_place_with_other_files_is_refused_and_left_alone(name, built_run, place, tmp_path):
    export(name, built_run, RunLocation.open(str(tmp_path / "own")))
    path = max(contents(tmp_path / "own"))
    place.replace(path, b"mine")
    # A second try must not take them for its own either.
    for _ in range(2):
        with pytest.raises(ConfigError, match="Name an empty place"):
            export(name, built_run, place)
    assert contents(place.root) == {path: b"mine"}


@pytest.mark.parametrize(
    ("name", "option"), [("coco", "split"), ("cris", "dataset"), ("cris", "split"), ("refer", "split_by")]
)
def test_a_name_that_would_lead_out_of_its_folder_is_refused(name, option, built_run, place):
    with pytest.raises(ConfigError, match=rf"--{option.replace('_', '-')} '\.\./x'.*becomes a file name"):
        export(name, built_run, place, **{option: "../x"})
    assert not Path(place.root).exists()


@pytest.mark.parametrize("name", ["coco", "sa1b", "pseudo-ris-csv"])
@pytest.mark.parametrize(
    "damaged",
    [
        lambda files: files[1:],
        lambda files: [replace(each, size_bytes=each.size_bytes + 1) for each in files],
        lambda files: [*files, *files[:1]],
    ],
    ids=["missing", "size", "more"],
)
def test_image_files_missing_changed_or_too_many_are_told(name, damaged, built_run, place, monkeypatch):
    real = RunLocation.list
    monkeypatch.setattr(RunLocation, "list", lambda self, folder: iter(damaged(list(real(self, folder)))))
    with pytest.raises(TransientError, match="does not have exactly the files that were written"):
        export(name, built_run, place)


def test_how_often_the_receipts_are_read_does_not_follow_the_images(tmp_path):
    # A pass reads the receipts of all shards: one an image is the square of the run.
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    def passes(num_images: int) -> int:
        pictures = tuple((path_key(f"{number:04d}.jpg"), jpeg(), (("the red half",),)) for number in range(num_images))
        run = build_run(RunLocation.open(str(tmp_path / f"run-{num_images}")), pictures)
        request = request_for(run, RunLocation.open(str(tmp_path / f"export-{num_images}")))
        receipts = Counted(request.run.receipts)
        find_export("coco").write(replace(request, run=replace(request.run, receipts=receipts)), lambda *_, **__: None)
        return receipts.passes

    assert passes(20) == passes(2) > 0


@pytest.mark.long
@pytest.mark.parametrize("name", STREAMED)
def test_memory_does_not_follow_the_run(name, tmp_path):
    # What follows the end of a JPEG is nobody's pixels.
    data = jpeg() + bytes(30_000)

    def peak_bytes(num_images: int) -> int:
        texts = (("the red half",), ("the blue half",))
        pictures = tuple((path_key(f"{number:04d}.jpg"), data, texts) for number in range(num_images))
        run = build_run(RunLocation.open(str(tmp_path / f"run-{num_images}")), pictures, per_shard=5)
        places = [RunLocation.open(str(tmp_path / f"export-{num_images}-{number}")) for number in range(TRIES)]
        # With its receipts, which every export is given as a list.
        requests = [request_for(run, place, target_bytes=300_000) for place in places]
        return least_peak_bytes(lambda number: find_export(name).write(requests[number], lambda *_, **__: None))

    peak_bytes(5)  # what is imported, and made once
    # Their images are 4.5 MB apart. How many files are on their way at once, a megabyte at most, is up to the threads.
    small, large = peak_bytes(50), peak_bytes(200)
    assert large < small + 1_500_000
