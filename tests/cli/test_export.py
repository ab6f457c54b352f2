"""`pseudoris export` as a user meets it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.builders.command import invoke, pseudoris_here
from tests.store.builders import commit, start_run
from tests.training.exports.builders import build_run, jpeg


@pytest.fixture
def out(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    commit(location, start_run(location), 0, 1)
    return tmp_path / "run"


def test_a_finished_run_is_written_read_back_and_summed_up(out, tmp_path):
    location = RunLocation.open(str(out))
    header = start_run(location)
    commit(location, header, 2)
    result = invoke("export", out, tmp_path / "export", "--format", "parquet")
    assert "written, and checked by reading it back" in result.output
    assert "12 of 12 planned" in result.output
    assert ds.dataset(tmp_path / "export" / "expressions").count_rows() == 18


def test_an_unfinished_run_is_refused_unless_what_there_is_is_wanted(out, tmp_path):
    with pytest.raises(ConfigError, match=r"2 of 3 shards are committed.*--partial"):
        invoke("export", out, tmp_path / "export")
    invoke("export", out, tmp_path / "export", "--partial")
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 8


def test_excluded_images_are_left_out_and_counted(out, tmp_path):
    (tmp_path / "held-out.txt").write_text(ds.dataset(out / "images").to_table()["key"][0].as_py())
    result = invoke(
        "export", str(out), str(tmp_path / "export"), "--partial", "--exclude", str(tmp_path / "held-out.txt")
    )
    assert "1 images excluded by held-out.txt (names)" in result.output
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 7


def test_mistakes_are_messages_with_exit_code_two(out, tmp_path):
    for arguments, message in [
        ((str(tmp_path / "nowhere"), str(tmp_path / "export")), "there is no run"),
        ((str(out), str(tmp_path / "export"), "--format", "yolo"), "'yolo' is not one of 'parquet'"),
        ((str(out), str(tmp_path / "export"), "--exclude", str(tmp_path / "none.csv")), "none.csv' does not exist"),
    ]:
        failed = pseudoris_here("export", *arguments)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A finished run of real pictures."""
    location = RunLocation.open(str(tmp_path_factory.mktemp("pictures") / "run"))
    build_run(location)
    return Path(location.root)


@pytest.fixture
def human(tmp_path):
    """A REFER dataset of other pictures: an export stands in for it, which has the same form."""
    other = tuple((f"other/{number}.jpg", jpeg(), ((f"number {number}",),)) for number in range(2))
    location = RunLocation.open(str(tmp_path / "other"))
    build_run(location, other)
    named = ("--format", "refer", "--split", "val", "--split-by", "unc")
    invoke("export", location.root, tmp_path / "human", *named)
    return tmp_path / "human"


@pytest.mark.parametrize("name", ["refer", "cris", "lmdb"])
def test_each_format_says_what_it_wrote_left_out_and_checked(pictures, tmp_path, name):
    result = invoke("export", pictures, tmp_path / "export", "--format", name)
    # Lines break where the console ends.
    output = " ".join(result.output.split())
    assert "written, and checked by reading it back" in output
    assert "quarantined images 1 " in output
    assert "1 images without a mask" in output
    assert "2 images whose masks have no kept expression" in output
    assert "equal the run's" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "parquet", "--max-tokens", "17"), "--format parquet does not use --max-tokens.*refer"),
        (("--format", "cris", "--split-by", "unc"), "--format cris does not use --split-by"),
        (
            ("--format", "refer", "--distinctive-only"),
            "does not use --distinctive-only, which belongs to pseudo-ris-csv",
        ),
        (("--format", "refer", "--merge-images", "x"), "need --merge-human FOLDER"),
        (("--format", "refer", "--merge-human", "nowhere"), r"must have one refs\(…\)\.p\. Found none"),
    ],
)
def test_an_option_that_means_nothing_there_is_refused(pictures, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke("export", pictures, tmp_path / "export", *arguments)
    assert not (tmp_path / "export").exists()


def test_a_humans_splits_are_merged_from_the_folder_of_their_dataset(pictures, human, tmp_path):
    merging = ("--format", "refer", "--merge-human", str(human / "refcoco"))
    images = ("--merge-images", str(human / "images/mscoco/images/train2014"))
    result = invoke("export", pictures, tmp_path / "merged", *merging, *images)
    assert re.search(r"references of val +2", result.output)
    assert re.search(r"references of train +\d", result.output)
    with pytest.raises(ConfigError, match=r"has no reference of testB\. Its splits are: val"):
        invoke("export", pictures, tmp_path / "x", *merging, "--merge-splits", "testB")
