"""Every snippet of docs/guides/sql.md, run in a folder where the run lies in `out`, and in a bucket `bucket`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.refiltered_run import RuleChange, refilter
from tests.builders.scored_runs import scored_run
from tests.builders.tables import read_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "sql.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    language: str
    code: str
    line: int

    @property
    def is_in_bucket(self) -> bool:
        return "bucket/" in self.code


def snippets() -> list[Snippet]:
    text = PAGE.read_text(encoding="utf-8")
    return [Snippet(each[1], each[2], text.count("\n", 0, each.start()) + 1) for each in _FENCE.finditer(text)]


SNIPPETS = snippets()
LOCAL = [each for each in SNIPPETS if not each.is_in_bucket]
IN_BUCKET = [each for each in SNIPPETS if each.is_in_bucket]


def named(some: list[Snippet]) -> dict:
    return {"argvalues": some, "ids": [f"line {each.line}, {each.language}" for each in some]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sql")
    scored_run(RunLocation.open(str(folder / "out")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for each in SNIPPETS:
        if each.language == "bash":
            command = f'pseudoris() {{ "{sys.executable}" -m pseudoris "$@"; }}; set -e\n{each.code}'
            subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return RunLocation.open(str(folder / "out"))


def run_python(snippet: Snippet) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(snippet.code, f"{PAGE}:{snippet.line}", "exec"), {})
    return shown.getvalue()


def test_the_page_speaks_of_every_reader_and_of_buckets():
    languages = Counter(each.language for each in SNIPPETS)
    assert set(languages) == {"sql", "python", "bash"}
    assert languages["sql"] >= 8
    assert all(reader in PAGE.read_text() for reader in ("duckdb", "polars", "pandas", "pyarrow", "pycocotools"))
    assert len(IN_BUCKET) == 4


@pytest.mark.parametrize("snippet", **named([each for each in LOCAL if each.language == "sql"]))
def test_a_query_finds_rows(there, snippet):
    assert len(duckdb.sql(snippet.code).fetchall()) > 0


@pytest.mark.parametrize("snippet", **named([each for each in LOCAL if each.language == "python"]))
def test_a_program_runs_and_shows_something(there, snippet):
    assert run_python(snippet) or "assert" in snippet.code


@pytest.mark.parametrize("snippet", **named(IN_BUCKET))
def test_a_program_reads_a_bucket(snippet, bucket_run, monkeypatch):
    for name, value in bucket_run.items():
        monkeypatch.setenv(name, value)
    assert run_python(snippet)


@pytest.fixture(scope="module")
def bucket_run(s3_server, folder):
    """Put the run into `s3://bucket/out`; give the environment that finds it."""
    client = s3_server.client()
    client.create_bucket(Bucket="bucket")
    for path in (folder / "out").rglob("*.parquet"):
        client.put_object(Bucket="bucket", Key=str(path.relative_to(folder)), Body=path.read_bytes())
    return {"AWS_ENDPOINT_URL": s3_server.endpoint_url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}


def query_after(words: str) -> list[tuple]:
    (snippet,) = [each for each in SNIPPETS if words in each.code]
    return duckdb.sql(snippet.code).fetchall()


def test_yield_by_decoder_is_what_the_rows_say(there):
    rows = read_table(there, "expressions").to_pylist()
    candidates = Counter((row["decoder"], row["top_k"], row["top_p"]) for row in rows)
    kept = Counter((row["decoder"], row["top_k"], row["top_p"]) for row in rows if row["kept"])
    found = query_after("By decoder and its settings")
    assert {row[:3]: row[3:] for row in found} == {
        key: (count, pytest.approx(kept[key] / count)) for key, count in candidates.items()
    }


def test_the_best_expression_of_a_mask_has_the_highest_score(there):
    rows = read_table(there, "expressions").to_pylist()
    best = {}
    for row in rows:
        if not row["kept"]:
            continue
        (mask,) = row["target_mask_ids"]
        rank = (-(row["distinctiveness"] or 0), -row["correctness"], row["text"])
        best[mask] = min(best.get(mask, rank), rank)
    due = {mask: text for mask, (_, _, text) in best.items()}
    assert {row[0]: row[1] for row in query_after("The best expression of each mask")} == due


def test_what_another_tau_would_keep_is_what_refilter_keeps(there, tmp_path):
    counts = {float(tau): kept for tau, kept in query_after("before `pseudoris refilter`")}
    summary = refilter(there, RunLocation.open(str(tmp_path / "new")), RuleChange(tau=1.2))
    assert summary.totals.kept == counts[1.2]


@pytest.mark.slow
def test_the_conditions_of_a_run_are_added_where_the_query_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunLocation.open(str(tmp_path / "out"))
    scored_run(run, "filtering.keep=[correctness > 0.2]", has_humans=True)
    (snippet,) = [each for each in SNIPPETS if "before `pseudoris refilter`" in each.code]
    counts = {float(tau): kept for tau, kept in duckdb.sql(snippet.code.replace("-- here, as: ", "")).fetchall()}
    for tau in (1.05, 1.2, 1.5):
        summary = refilter(run, RunLocation.open(str(tmp_path / f"at {tau}")), RuleChange(tau=tau))
        assert (tau, summary.totals.kept) == (tau, counts[tau])


def test_the_parts_listed_are_all_of_the_finished_run(there, folder):
    listed = (folder / "parts.txt").read_text().splitlines()
    assert sorted(listed) == sorted(str(path) for path in (folder / "out" / "expressions").glob("*.parquet"))
