"""Rooms that read folders of others open files through the run's storage, or as regular files: never by `pathlib`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("audit", "viewer", "store/checks", "store/reports", "store/runs", "store/tables", "workers/checkpoints")
METHODS = {"read_text", "write_text", "write_bytes"}
ALLOWED = {
    ("viewer/pages.py", "read_text"): "templates of the package",
    ("store/runs/lock.py", "read_text"): "the kernel's own files, which tell one boot from another",
    ("workers/checkpoints/openclip.py", "read_text"): "a model config that the user names, of bounded size",
}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield path.relative_to(ROOT).as_posix(), node.func.attr


def test_no_file_is_opened_by_its_path_alone():
    found = {call for room in ROOMS for path in (ROOT / room).rglob("*.py") for call in calls(path)}
    assert found == set(ALLOWED), "open it with pseudoris.schemas.regular_files or through RunLocation"
