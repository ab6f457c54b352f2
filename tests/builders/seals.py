"""Records of a run as a person, or a program of another kind, might edit them: with a digest that matches."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq

from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER


def sealed_json(tree: dict[str, Any]) -> bytes:
    """Return the file of a header or a receipt whose content is `tree`, with its digest."""
    content = json.dumps({key: value for key, value in tree.items() if key != "sha256"}, indent=2)
    return f'{content[:-2]},\n  "sha256": "{sha256_hex(content.encode())}"\n}}'.encode()


def edit_sealed(location: RunLocation, path: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the record at `path` by `edit`, and give it a digest that matches."""
    tree = json.loads(location.read_bytes(path))
    edit(tree)
    location.replace(path, sealed_json(tree))


def without_digests(path: str, data: bytes) -> bytes:
    """Return a receipt, or the rows of a manifest, without its own digest and its header's, which names a time.

    Any other file is returned as it is.
    """
    if path.startswith(f"{MANIFEST_FOLDER}/"):
        rows = pq.read_table(io.BytesIO(data)).drop_columns(["header_sha256", "sha256"]).to_pylist()
        return json.dumps(rows).encode()
    if path.startswith(f"{RECEIPTS_FOLDER}/"):
        return re.sub(rb'\n  "(header_)?sha256": "[0-9a-f]{64}"', b"", data)
    return data


def forge_header(location: RunLocation, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the header by `edit`, and give all records that name it its new digest. The manifests are deleted."""
    plans = sorted(file.name for file in location.list(PLAN_FOLDER))
    digests: dict[str, str] = {}

    def rename(tree: dict[str, Any]) -> None:
        tree.update(header_sha256=digests[tree["header_sha256"]])

    for path, change in ((HEADER_NAME, edit), *((f"{PLAN_FOLDER}/{name}", rename) for name in plans)):
        before = json.loads(location.read_bytes(path))["sha256"]
        edit_sealed(location, path, change)
        digests[before] = json.loads(location.read_bytes(path))["sha256"]
    for file in list(location.list(RECEIPTS_FOLDER)):
        edit_sealed(location, f"{RECEIPTS_FOLDER}/{file.name}", rename)
    for file in list(location.list(MANIFEST_FOLDER)):
        location.delete(f"{MANIFEST_FOLDER}/{file.name}")
