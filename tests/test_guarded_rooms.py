"""Rooms that read folders of others open files through the run's storage, or as regular files: never by `pathlib`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("audit", "viewer", "store/checks", "store/reports", "store/runs", "store/tables"),
    *("training/exclusions", "training/imports", "workers/checkpoints"),
)
METHODS = {"read_text", "write_text", "write_bytes", "open", "read_bytes"}
# What opens within a run's storage, or is no file.
HOLDERS = {"location", "destination", "RunLocation", "AuditFolder", "Parent", "cls", "fsspec"}
ALLOWED = {
    ("audit/verdict_merge.py", "os.open"): "the audit's folder itself, to lock it",
    ("store/runs/lock.py", "boot.read_text"): "the kernel's own file, which tells one boot from another",
    ("viewer/pages.py", "template.read_text"): "templates of the package",
    ("workers/checkpoints/openclip.py", "path.read_text"): "a model config that the user names, of bounded size",
    ("workers/checkpoints/openclip.py", "text.read_text"): "a model config of open_clip's package",
    ("workers/checkpoints/weight_cache.py", "path.open"): "weights, which may be links in a cache that a team shares",
}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in METHODS:
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id not in HOLDERS:
            yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func)


def test_no_file_is_opened_by_its_path_alone():
    found = {call for room in ROOMS for path in (ROOT / room).rglob("*.py") for call in calls(path)}
    assert found == set(ALLOWED), "open it with pseudoris.schemas.regular_files or through RunLocation"
