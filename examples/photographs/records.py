"""What a step leaves for the page: `OUT/records/<name>.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.step_log import replace_json
from pseudoris.schemas.errors import ConfigError


def record_path(out: Path, name: str) -> Path:
    """Return the file of a record, in a folder that exists."""
    (out / "records").mkdir(parents=True, exist_ok=True)
    return out / "records" / f"{name}.json"


def read_record(out: Path, name: str) -> Any:
    """Return what a record holds; None if there is none.

    Raises:
        ConfigError: It is no JSON.
    """
    path = out / "records" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise ConfigError(f"{path} is damaged. Name another OUT, or delete {out} and begin again") from None


def write_record(out: Path, name: str, value: Any) -> None:
    """Write a record."""
    replace_json(record_path(out, name), value)
