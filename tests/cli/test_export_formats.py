"""`pseudoris export` into the formats of readers outside RIS: what a user is told, and which options mean something."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.training.exports.builders import build_run
from tests.training.exports.loading import LOADERS

FORMATS = ("coco", "sa1b", "webdataset", "hf", "pseudo-ris-csv")


@pytest.fixture
def tmp_path(tmp_path):
    """Return a folder with a plain name: `datasets` and `webdataset` read a folder's name as a pattern."""
    return tmp_path.parent


@pytest.fixture
def out(tmp_path):
    build_run(RunLocation.open(str(tmp_path / "run")))
    return str(tmp_path / "run")


def invoke(*arguments: str):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["export", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", FORMATS)
def test_the_user_is_told_what_was_written_left_out_and_checked(name, out, tmp_path):
    result = invoke(out, str(tmp_path / "export"), "--format", name, "--max-tokens", "17")
    assert result.exit_code == 0, result.output
    assert "written, and checked by reading it back" in result.output
    assert "3 expressions of more than 17 CLIP tokens" in result.output
    assert "checked" in result.output
    assert LOADERS[name](tmp_path / "export")


@pytest.mark.parametrize("name", ["sa1b", "webdataset", "pseudo-ris-csv"])
def test_a_split_means_nothing_to_a_format_without_one(name, out, tmp_path):
    with pytest.raises(ConfigError, match="--split"):
        invoke(out, str(tmp_path / "export"), "--format", name, "--split", "val")
    assert not (tmp_path / "export").exists()
