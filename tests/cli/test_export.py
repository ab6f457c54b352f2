"""`pseudoris export` as a user meets it."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from cli.main import app
from schemas.errors import ConfigError
from store.location import RunLocation
from tests.builders.command import pseudoris
from tests.store.builders import commit, start_run


@pytest.fixture
def out(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    commit(location, start_run(location), 0, 1)
    return tmp_path / "run"


def invoke(*arguments: str):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["export", *arguments], catch_exceptions=False)


def test_a_finished_run_is_written_read_back_and_summed_up(out, tmp_path):
    location = RunLocation.open(str(out))
    header = start_run(location)
    commit(location, header, 2)
    result = invoke(str(out), str(tmp_path / "export"), "--format", "parquet")
    assert result.exit_code == 0, result.output
    assert "written and read back" in result.output
    assert "12 of 12 planned" in result.output
    assert ds.dataset(tmp_path / "export" / "expressions").count_rows() == 18


def test_an_unfinished_run_is_refused_unless_what_there_is_is_wanted(out, tmp_path):
    with pytest.raises(ConfigError, match=r"2 of 3 shards are committed.*--partial"):
        invoke(str(out), str(tmp_path / "export"))
    assert invoke(str(out), str(tmp_path / "export"), "--partial").exit_code == 0
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 8


@pytest.mark.parametrize("inside", ["", "masks", "export"])
def test_a_destination_in_the_run_is_refused(out, inside):
    with pytest.raises(ConfigError, match="lies in the run"):
        invoke(str(out), str(out / inside), "--partial")


def test_mistakes_are_messages_with_exit_code_two(out, tmp_path):
    for arguments, message in [
        ((str(tmp_path / "nowhere"), str(tmp_path / "export")), "there is no run"),
        ((str(out), str(tmp_path / "export"), "--format", "coco"), "no export format 'coco'"),
    ]:
        failed = pseudoris("export", *arguments)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
