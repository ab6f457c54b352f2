"""README's Python: its blocks run, one after the other, in the folder of a finished demo run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pseudoris

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages whose Python is for users; what a page says of the inside is prose, not code.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_on_a_page_uses_the_public_names_alone(page):
    for block in blocks(page):
        assert not re.search(r"^\s*(from|import) pseudoris\.", block, re.MULTILINE), block
        taken = re.findall(r"^\s*from pseudoris import (.+)$", block, re.MULTILINE)
        called = re.findall(r"\bpseudoris\.(\w+)", block)
        names = {name.strip(" ()") for line in taken for name in line.split(",")} | set(called)
        assert names <= set(pseudoris.__all__), block


@pytest.mark.ray
def test_the_blocks_of_the_readme_run_in_their_order(tmp_path, ray_session, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").symlink_to(tiny_run.out)
    assert pseudoris.annotate(str(tiny_run.source), "out/").is_complete
    found = blocks(ROOT / "README.md")
    assert found
    Path("readme.py").write_text("\n".join(found), encoding="utf-8")
    # A process of its own, as a reader has: loader workers are forked from it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run([sys.executable, "readme.py"], capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
