"""`pseudoris gc` deletes what no reader wants, and says what."""

from __future__ import annotations

import os
import time

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from tests.store.builders import commit, start_run


@pytest.fixture
def location(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0, 1, 2)
    commit(location, header, 1, generation=1)
    location.replace("masks/shard-00000000.g0-00000000.parquet", b"lost")
    abandoned = tmp_path / "images" / ".tmp-1-00112233445566aa"
    abandoned.write_bytes(b"half")
    past_s = time.time() - 86_400
    os.utime(abandoned, (past_s, past_s))
    return location


def printed(location: RunLocation, *options: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["gc", location.root, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    # A line breaks where the folder's name makes it.
    return " ".join(result.output.split())


def files(location: RunLocation) -> set[str]:
    return {
        f"{table}/{file.name}"
        for table in ("images", "masks", "expressions", "failures")
        for file in location.list(table)
    }


def test_a_dry_run_lists_what_would_go_and_deletes_nothing(location):
    before = files(location)
    shown = printed(location, "--dry-run")
    assert files(location) == before
    assert "6 files would be deleted" in shown
    assert location.uri("masks/shard-00000000.g0-00000000.parquet") in shown
    assert "4 parts that a retry replaced" in shown


def test_what_is_left_is_what_receipts_name(location):
    assert "6 files deleted" in printed(location)
    assert len(files(location)) == 12
    assert verify_run(location).is_clean
    assert "0 files deleted" in printed(location)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no run"):
        CliRunner().invoke(app, ["gc", str(tmp_path / "elsewhere")], catch_exceptions=False)
