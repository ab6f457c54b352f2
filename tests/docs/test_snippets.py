"""Code on the pages: what is tagged `run` runs, block after block, and so does all of docs/guides/finished-run.md.

A fence of "```python run" or "```bash run" is tagged. The folder has `out/`, a run of two drawn scenes, the same in
`demo-out/`, and `photos/`, its images. The Python of a page shares its names, and `pseudoris` is on the path of bash.
The page of a finished run has one in `out`, and in a bucket `bucket`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest

import pseudoris
from pseudoris.files.location import RunLocation
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.scored_runs import scored_run

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)( run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages whose Python is for users; what a page says of the inside is prose, not code.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# One process, as a reader has: loader workers are forked from it. Tracebacks show the lines of the page.
_DRIVER = """
import json, subprocess, sys
page, blocks = json.load(sys.stdin)
names = {"__name__": "__main__"}
for language, code, line in blocks:
    if language == "python":
        exec(compile("\\n" * line + code, page, "exec"), names)
    else:
        print(code, file=sys.stderr)
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
"""


class Snippet(NamedTuple):
    language: str
    code: str
    line: int
    is_run: bool


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(each[1], each[3], text.count("\n", 0, each.start()) + 1, bool(each[2]))
        for each in _FENCE.finditer(text)
    ]


TAGGED = [page for page in PAGES if any(each.is_run for each in snippets(page))]


def named(pages: list[Path]) -> dict:
    return {"argvalues": pages, "ids": [page.relative_to(ROOT).as_posix() for page in pages]}


@pytest.mark.parametrize("page", **named(PAGES))
def test_python_on_a_page_uses_the_public_names_alone(page):
    for block in (each.code for each in snippets(page) if each.language == "python"):
        assert not re.search(r"^\s*(from|import) pseudoris\.", block, re.MULTILINE), block
        taken = re.findall(r"^\s*from pseudoris import (.+)$", block, re.MULTILINE)
        called = re.findall(r"\bpseudoris\.(\w+)", block)
        names = {name.strip(" ()") for line in taken for name in line.split(",")} | set(called)
        assert names <= set(pseudoris.__all__), block


def test_all_python_of_the_readme_is_tagged():
    found = [each.is_run for each in snippets(ROOT / "README.md") if each.language == "python"]
    assert found
    assert all(found)


@pytest.mark.slow
@pytest.mark.parametrize("page", **named(TAGGED))
def test_the_tagged_snippets_of_a_page_run_in_their_order(page, tiny_run, tmp_path):
    shutil.copytree(tiny_run.out, tmp_path / "out")
    (tmp_path / "photos").symlink_to(tiny_run.source)
    (tmp_path / "demo-out").mkdir()
    (tmp_path / "demo-out" / "tiny-composed").symlink_to(tmp_path / "out")
    blocks = [(each.language, each.code, each.line) for each in snippets(page) if each.is_run]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        input=json.dumps([str(page), blocks]),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr


SQL_PAGE = ROOT / "docs" / "guides" / "finished-run.md"
SNIPPETS = snippets(SQL_PAGE)


def chosen(language: str, *, is_in_bucket: bool = False) -> dict:
    some = [each for each in SNIPPETS if each.language == language and ("bucket/" in each.code) == is_in_bucket]
    return {"argvalues": some, "ids": [f"line {each.line}" for each in some]}


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
        exec(compile(snippet.code, f"{SQL_PAGE}:{snippet.line}", "exec"), {})
    return shown.getvalue()


def test_the_page_of_sql_speaks_of_every_reader_and_of_buckets():
    languages = Counter(each.language for each in SNIPPETS)
    assert set(languages) == {"sql", "python", "bash"}
    assert languages["sql"] >= 8
    assert all(reader in SQL_PAGE.read_text() for reader in ("duckdb", "polars", "pandas", "pyarrow", "pycocotools"))
    assert len(chosen("python", is_in_bucket=True)["ids"]) == 4


@pytest.mark.parametrize("snippet", **chosen("sql"))
def test_a_query_finds_rows(there, snippet):
    assert len(duckdb.sql(snippet.code).fetchall()) > 0


@pytest.mark.parametrize("snippet", **chosen("python"))
def test_a_program_runs_and_shows_something(there, snippet):
    assert run_python(snippet) or "assert" in snippet.code


@pytest.mark.parametrize("snippet", **chosen("python", is_in_bucket=True))
def test_a_program_reads_a_bucket(snippet, bucket_run, monkeypatch):
    for name, value in bucket_run.items():
        monkeypatch.setenv(name, value)
    assert run_python(snippet)


@pytest.fixture(scope="module")
def bucket_run(s3_server, folder):
    """Put the run into `s3://bucket/out`; give the environment that finds it."""
    s3_server.client().create_bucket(Bucket="bucket")
    s3_server.put_folder(folder / "out", "bucket", "out")
    return {"AWS_ENDPOINT_URL": s3_server.endpoint_url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}


def query_after(words: str) -> list[tuple]:
    (snippet,) = [each for each in SNIPPETS if words in each.code]
    return duckdb.sql(snippet.code).fetchall()


def test_yield_by_decoder_is_what_the_rows_say(there):
    rows = OpenRun.at(there).table("expressions").to_pylist()
    candidates = Counter((row["decoder"], row["top_k"], row["top_p"]) for row in rows)
    kept = Counter((row["decoder"], row["top_k"], row["top_p"]) for row in rows if row["kept"])
    found = query_after("By decoder and its settings")
    assert {row[:3]: row[3:] for row in found} == {
        key: (count, pytest.approx(kept[key] / count)) for key, count in candidates.items()
    }


def test_the_best_expression_of_a_mask_has_the_highest_score(there):
    rows = OpenRun.at(there).table("expressions").to_pylist()
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
