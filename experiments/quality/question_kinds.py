"""Kinds of questions, as those who ask them know: what singles the object out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pseudoris.schemas.ids import image_id

# Words alone; a place in the picture or in a row; a relation to another object.
KINDS: Final = ("attribute", "position", "relation")
ALL_KINDS: Final = ("all", *KINDS)
KINDS_NAME: Final = "kinds.json"


def write_kinds(folder: Path, kinds: Mapping[str, Mapping[str, str]]) -> None:
    """Write the kind of each expression, by the image's file name and the text, beside the run in `folder`."""
    named = {image_id(name): found for name, found in kinds.items()}
    (folder / KINDS_NAME).write_text(json.dumps(named) + "\n", encoding="utf-8")


def read_kinds(run: str) -> dict[str, dict[str, str]]:
    """Return the kind of each expression of a run, by the id of its image and the text."""
    found: dict[str, dict[str, str]] = json.loads((Path(run).parent / KINDS_NAME).read_text(encoding="utf-8"))
    return found
