"""`pseudoris export` as a user meets it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from pseudoris.cli.main import app
from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS, ExportOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.lock import RunLock
from tests.builders.command import invoke, pseudoris_here
from tests.interchange.exports.builders import build_run, jpeg
from tests.store.builders import commit, start_run


@pytest.fixture
def out(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    commit(location, start_run(location), 0, 1)
    return tmp_path / "run"


def test_a_finished_run_is_written_read_back_and_summed_up(out, tmp_path):
    location = RunLocation.open(str(out))
    commit(location, start_run(location), 2)
    result = invoke("export", out, tmp_path / "export", "--format", "parquet")
    assert ": written and checked" in result.output
    assert "12 of 12 planned" in result.output
    assert ds.dataset(tmp_path / "export" / "expressions").count_rows() == 18


def test_an_unfinished_run_is_refused_unless_what_there_is_is_wanted(out, tmp_path):
    with pytest.raises(ConfigError, match=r"2 of 3 shards are committed.*--partial"):
        invoke("export", out, tmp_path / "export")
    invoke("export", out, tmp_path / "export", "--partial")
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 8


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_the_same_command_on_a_whole_export_says_that_it_is_whole(pictures, tmp_path, name):
    words = ("export", pictures, tmp_path / "to", "--format", name)
    (exclusions := tmp_path / "held-out.txt").write_text("none.jpg")
    invoke(*words)
    before = {path: path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert "to already holds this export, whole. To write it anew: --overwrite" in invoke(*words).output
    assert {path: path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="already has an export"):
        invoke(*words, "--exclude", exclusions)
    next(path for path in sorted(before) if path.name not in ("_export.json", "croissant.json", "README.md")).unlink()
    with pytest.raises(ConfigError, match="already has an export"):
        invoke(*words)
    assert ": written and checked" in invoke(*words, "--overwrite").output


@pytest.mark.slow
def test_an_export_to_a_bucket_that_was_killed_behind_its_last_byte_is_whole(
    pictures, s3_server, s3_bucket, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    words = ("export", str(pictures), f"s3://{s3_bucket}/to", "--format", "coco")
    pseudoris_here(*words, code=0)
    # The killed owner's lock is still there.
    lock = RunLock.acquire(RunLocation.open(f"s3://{s3_bucket}/to"))
    assert "already holds this export, whole" in pseudoris_here(*words, code=0).stdout
    lock.release()


def test_excluded_images_are_left_out_and_counted(out, tmp_path):
    (tmp_path / "held-out.txt").write_text(ds.dataset(out / "images").to_table()["key"][0].as_py())
    result = invoke("export", out, tmp_path / "export", "--partial", "--exclude", tmp_path / "held-out.txt")
    assert "1 images excluded by held-out.txt (names)" in result.output
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 7


def test_the_images_that_only_names_are_written_and_names_that_the_run_lacks_are_told(out, tmp_path):
    first = ds.dataset(out / "images").to_table()["key"][0].as_py()
    (tmp_path / "v1.txt").write_text(f"{first}\nelsewhere.jpg\n")
    result = invoke("export", out, tmp_path / "export", "--partial", "--only", tmp_path / "v1.txt")
    assert "7 images that --only v1.txt does not name" in result.output
    assert "- --only v1.txt: 1 of its 2 names are not in the run." in result.output
    assert ds.dataset(tmp_path / "export" / "images").to_table()["key"].to_pylist() == [first]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A finished run of real pictures."""
    location = RunLocation.open(str(tmp_path_factory.mktemp("pictures") / "run"))
    build_run(location)
    return Path(location.root)


def test_an_export_refused_before_its_first_file_leaves_the_place_to_another_format(pictures, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pictures, run)
    for part in (run / "masks").iterdir():
        part.unlink()
    with pytest.raises(ConfigError):
        invoke("export", run, tmp_path / "export", "--format", "refer")
    assert not (tmp_path / "export" / "_export.json").exists()
    invoke("export", pictures, tmp_path / "export", "--format", "hf")


# Above the picture's area, so that it grows.
RESIZED = ("--coordinates", "resized", "--resize-factor", "28", "--min-pixels", "3136", "--max-pixels", "100000")


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"parquet", "pseudo-ris-csv"}))
def test_each_format_says_what_it_wrote_left_out_and_checked(pictures, tmp_path, name):
    result = invoke("export", pictures, tmp_path / "export", "--format", name)
    # Lines break where the console ends.
    output = " ".join(result.output.split())
    assert ": written and checked" in output
    assert "quarantined images 1 " in output
    assert "1 images without a mask" in output
    assert "images whose masks have no kept expression" in output or EXPORTS[name].takes.keeps_bare_masks
    assert "every record, decoded before it was stored, has the run's masks and expressions" in output


@pytest.mark.parametrize(
    ("name", "flags"),
    [("llamafactory", ("image_min_pixels", "image_max_pixels")), ("qwen", ("--min_pixels", "--max_pixels"))],
)
def test_boxes_of_the_trainers_own_resizing_are_printed_with_the_limits_that_they_need(pictures, tmp_path, name, flags):
    result = invoke("export", pictures, tmp_path / "export", "--format", name, *RESIZED)
    assert f"{flags[0]}=3136 and {flags[1]}=100000" in " ".join(result.output.split())
    result = invoke("export", pictures, tmp_path / "norm", "--format", name)
    assert "in thousandths of the image's sides" in " ".join(result.output.split())


def test_each_option_of_a_format_has_a_flag():
    defaults = {field.name: field.default for field in fields(ExportOptions) if field.name != "human"}
    flags = {each.name: each.default for each in get_command(app).commands["export"].params}
    # The flag of the data set's name has none: it is the name of the split's folder.
    assert defaults == {name: flags[name] if name != "dataset" else defaults[name] for name in defaults}


def test_an_option_changes_what_is_written(pictures, tmp_path):
    def written(*arguments):
        place = tmp_path / "-".join(arguments).replace("--", "")
        invoke("export", pictures, place, *arguments)
        return {path.relative_to(place): path.read_bytes() for path in place.rglob("*.json*") if path.name[0] != "_"}

    for name in ("llamafactory", "qwen"):
        found = [written("--format", name, *each) for each in ((), ("--coordinates", "real"), RESIZED)]
        assert found[0] != found[1] != found[2] != found[0]
    assert written("--format", "refer") != written("--format", "refer", "--masks", "rle")
    invoke("export", pictures, tmp_path / "objects", "--format", "hf", "--layout", "objects")
    assert "objects" in pq.read_schema(tmp_path / "objects/data/train-00000.parquet").names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "parquet", "--max-tokens", "17"), "--format parquet does not use --max-tokens.*refer"),
        (("--format", "cris", "--split-by", "unc"), "--format cris does not use --split-by"),
        (
            ("--format", "refer", "--distinctive-only"),
            "does not use --distinctive-only, which belongs to pseudo-ris-csv",
        ),
        (("--format", "coco", "--masks", "polygon"), "does not use --masks, which belongs to refer"),
        (("--format", "refer", "--masks", "bitmap"), "--masks 'bitmap' is neither polygon nor rle"),
        (("--format", "hf", "--layout", "rows"), "--layout 'rows' is not masks or objects"),
        (("--format", "ms-swift", "--coordinates", "real"), "which belongs to llamafactory, qwen"),
        (("--format", "ms-swift", "--coordinates", "norm1000"), "which belongs to llamafactory, qwen"),
        (("--format", "grefcoco", "--masks", "rle"), "does not use --masks, which belongs to refer"),
        (("--format", "llamafactory", "--dataset", "a,b"), "'a,b' cannot be a dataset's name: LLaMA-Factory splits"),
        (("--format", "qwen", "--coordinates", "relative"), "'relative' is not norm1000, real or resized"),
        (("--format", "qwen", "--min-pixels", "3136"), "--min-pixels and --max-pixels belong to --coordinates resized"),
        (("--format", "llamafactory", *RESIZED[:4]), "needs --resize-factor .* --min-pixels and --max-pixels"),
        (("--format", "qwen", *RESIZED, "--max-pixels", "3000"), "--coordinates resized needs .*--max-pixels"),
        (("--format", "coco", "--split", "../x"), r"--split '\.\./x' becomes a file name"),
        (("--format", "cris", "--dataset", "../x"), r"--dataset '\.\./x' becomes a file name"),
        (("--format", "refer", "--split-by", "../x"), r"--split-by '\.\./x'.*becomes a file name"),
        (("--format", "refer", "--split", "tests"), "is not a split of REFER"),
        *(
            (
                ("--format", "refer", "--dataset", each),
                r"is not known to REFER. Choose from refcoco, refcoco\+, refcocog",
            )
            for each in ("pseudo", "../refcoco", "refclef")
        ),
        (("--format", "hf", "--split", "my-split"), "--split 'my-split'"),
        (("--format", "reasonseg", "--dataset", "../x"), "--dataset '../x' becomes a file name"),
        (("--format", "reasonseg", "--split", "train_2"), "--split 'train_2': LISA takes _ for the border"),
        (("--format", "grefcoco", "--split", "dev"), "--split 'dev' is not a split of gRefCOCO"),
        (("--format", "refer", "--merge-images", "x"), "need --merge-human FOLDER"),
        (("--format", "refer", "--merge-human", "nowhere"), r"must have one refs\(…\)\.p\. Found none"),
    ],
)
def test_an_option_or_a_name_that_means_nothing_there_is_refused(pictures, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke("export", pictures, tmp_path / "export", *arguments)
    assert not (tmp_path / "export").exists()


def test_a_humans_splits_are_merged_from_the_folder_of_their_dataset(pictures, tmp_path):
    # A REFER dataset of other pictures: an export stands in for it, which has the same form.
    other = tuple((f"other/{number}.jpg", jpeg(), ((f"number {number}",),)) for number in range(2))
    run, human = build_run(tmp_path / "other", other), tmp_path / "human"
    invoke("export", run.location.root, human, "--format", "refer", "--split", "val", "--split-by", "unc")
    merging = ("--format", "refer", "--merge-human", str(human / "refcoco"))
    images = ("--merge-images", str(human / "images/mscoco/images/train2014"))
    result = invoke("export", pictures, tmp_path / "merged", *merging, *images)
    assert re.search(r"references of val +2", result.output)
    assert re.search(r"references of train +\d", result.output)
    with pytest.raises(ConfigError, match=r"has no reference of testB\. Its splits are: val"):
        invoke("export", pictures, tmp_path / "x", *merging, "--merge-splits", "testB")


def test_what_changed_in_source_is_named_and_ends_a_whole_export_with_1(tmp_path):
    pictures = tuple((f"{name}.jpg", jpeg(), ((f"the {name} one",),)) for name in ("first", "second", "third"))
    run = build_run(tmp_path / "run", pictures, embed=False, source=tmp_path / "source")
    (tmp_path / "source" / "second.jpg").write_bytes(jpeg(3))
    shown = pseudoris_here("export", run.location.root, str(tmp_path / "to"), "--format", "coco", code=1)
    told = r"1 images are not in the export, .* changed there: second\.jpg\. Restore them, or say by --source"
    assert re.search(told, shown.stderr)
    record = json.loads((tmp_path / "to" / "_export.json").read_text())
    assert record["unread"] == {"num": 1, "images": ["second.jpg"]}
    assert record["state"] == "whole"
    (tmp_path / "source" / "second.jpg").write_bytes(jpeg())
    again = ("export", run.location.root, str(tmp_path / "to"), "--format", "coco", "--overwrite")
    assert "2 images" not in pseudoris_here(*again, code=0).stderr
    assert "unread" not in json.loads((tmp_path / "to" / "_export.json").read_text())


def test_swapped_arguments_are_seen(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"is a run, and OUT .* is none: give the run first"):
        invoke("export", tmp_path / "export", pictures)
