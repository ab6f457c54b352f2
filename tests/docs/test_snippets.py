"""Code on the pages: what is tagged `run` runs, block after block, in a folder that holds a finished run.

A fence of "```python run" or "```bash run" is tagged. The folder has `out/`, a run of two drawn scenes, and `photos/`,
its images. The Python of a page shares its names, and `pseudoris` is on the path of bash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import pseudoris

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
    """A block of code on a page, and the line of its fence."""

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
