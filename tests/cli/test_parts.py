"""`pseudoris parts` lists exactly what receipts name."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.store.builders import commit, start_run


@pytest.fixture
def out(tmp_path):
    """A run whose shard 1 stands in generation 1, with a part of a writer who came second beside it."""
    location = RunLocation.open(str(tmp_path / "a run é"))
    header = start_run(location)
    commit(location, header, 0, 1)
    commit(location, header, 1, generation=1)
    location.replace("expressions/shard-00000000.g0-00000000.parquet", b"lost")
    return tmp_path / "a run é"


def lines(*arguments: str) -> list[str]:
    result = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["parts", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_each_line_is_a_path_of_the_latest_generation_and_reads(out):
    paths = lines(str(out))
    assert [path.rpartition("/")[2][:17] for path in paths] == ["shard-00000000.g0", "shard-00000001.g1"]
    assert len(list((out / "expressions").iterdir())) == 4
    assert pq.ParquetDataset(paths).read().num_rows == 12


def test_json_lines_say_what_each_part_is(out):
    rows = [json.loads(line) for line in lines(str(out), "--json")]
    assert [(row["shard"], row["generation"], row["rows"]) for row in rows] == [(0, 0, 6), (1, 1, 6)]
    assert {"path", "table", "size_bytes", "sha256"} <= rows[0].keys()


def test_a_table_that_does_not_exist_is_refused_with_the_ones_that_do(out):
    with pytest.raises(ConfigError, match=r"no table 'captions'\. Give --table images, masks"):
        CliRunner().invoke(app, ["parts", str(out), "--table", "captions"], catch_exceptions=False)
