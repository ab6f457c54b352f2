"""What a step leaves for the page: `OUT/records/<name>.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def record_path(out: Path, name: str) -> Path:
    """Return the file of a record, in a folder that exists."""
    (out / "records").mkdir(parents=True, exist_ok=True)
    return out / "records" / f"{name}.json"


def read_record(out: Path, name: str) -> Any:
    """Return what a record holds; None if there is none."""
    path = out / "records" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_record(out: Path, name: str, value: Any) -> None:
    """Write a record."""
    record_path(out, name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
