"""Code that a record names is there: now, or in the commit that it names, "`FILE or COMMAND` of commit HASH"."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "records"
PAGES = sorted([*RECORDS.rglob("*.md"), ROOT / "evidence" / "experiments" / "predictions.md"])
NAMED = re.compile(r"`([^`]+)`\s+of\s+commit\s+([0-9a-f]{8})\b")
COMMIT = re.compile(r"\bcommit\s+[0-9a-f]{7,}\b")
# A file, or the dotted name of a module.
CODE = re.compile(r"\b(?:benchmarks|evidence|examples|experiments|recipes|tests)(?:[./][\w-]+)+")
# Its commits are of other projects.
OF_OTHERS = RECORDS / "compared.md"


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def files(name: str) -> set[str]:
    """Return the files that a name may be of."""
    module = name.replace(".", "/")
    return {name} if "/" in name else {f"{module}.py", f"{module}/__main__.py", f"{module}/__init__.py"}


def of_commits(page: Path) -> list[tuple[str, str]]:
    """Return the code that a page says to be of a commit, with the commit."""
    text = page.read_text(encoding="utf-8")
    return [(name, commit) for said, commit in NAMED.findall(text) for name in CODE.findall(said)[:1]]


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def history() -> None:
    try:
        found = git("rev-parse", "--show-toplevel", "--is-shallow-repository")
    except FileNotFoundError:
        pytest.skip("needs git")
    if found.stdout.splitlines() != [str(ROOT.resolve()), "false"]:
        pytest.skip("needs a clone with its whole history: git fetch --unshallow, or fetch-depth: 0")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_code_that_is_gone_is_of_a_commit(page):
    left = {file for name, _ in of_commits(page) for file in files(name)}
    named = {name: files(name) for name in CODE.findall(NAMED.sub("", page.read_text(encoding="utf-8")))}
    assert [name for name, own in named.items() if not own & left and not any((ROOT / f).exists() for f in own)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != OF_OTHERS], ids=page_name)
def test_every_commit_of_a_page_stands_behind_its_code(page):
    text = page.read_text(encoding="utf-8")
    assert len(COMMIT.findall(text)) == len(of_commits(page))


@pytest.mark.parametrize(("name", "commit"), sorted({each for page in PAGES for each in of_commits(page)}))
def test_the_commit_is_of_this_history_and_holds_the_code(history, name, commit):
    assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, "no commit of this history"
    assert any(git("cat-file", "-e", f"{commit}:{file}").returncode == 0 for file in files(name))
