"""Records of a run as a person, or a program of another kind, might edit them: with a digest that matches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.location import RunLocation


def sealed_json(tree: dict[str, Any]) -> bytes:
    """Return the file of a header or a receipt whose content is `tree`, with its digest."""
    content = json.dumps({key: value for key, value in tree.items() if key != "sha256"}, indent=2)
    return f'{content[:-2]},\n  "sha256": "{sha256_hex(content.encode())}"\n}}'.encode()


def edit_sealed(location: RunLocation, path: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the record at `path` by `edit`, and give it a digest that matches."""
    tree = json.loads(location.read_bytes(path))
    edit(tree)
    location.replace(path, sealed_json(tree))
