"""The place of an export: taken before anything is written, marked whole as the last act.

`_export.json` says which format stands there and whether it is whole; one that is not was killed, and the next call
of any export of that format starts it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from schemas.errors import ConfigError
from training.exports.protocol import ExportRequest

EXPORT_NAME: Final = "_export.json"


def take_place(request: ExportRequest, export_format: str, folders: Sequence[str]) -> None:
    """Empty the folders of what an earlier export of the format left there, and mark the place as begun.

    Args:
        request: Its destination must be empty, or hold an export of the same format: one that was killed, or with
            `is_overwriting` a whole one.
        export_format: Name of the format.
        folders: Every folder that it writes files into, the destination itself excluded. Files in folders below them
            are not looked at.

    Raises:
        ConfigError: Something else stands there, or an export that was not to be replaced.
    """
    destination = request.destination
    earlier = _earlier(request, export_format)
    for folder in ("", *folders):
        for file in destination.list(folder):
            path = f"{folder}/{file.name}" if folder else file.name
            if not earlier:
                raise ConfigError(
                    f"{destination.uri(path)} is no file of an export, and would be mixed with its files: "
                    "name an empty place"
                )
            if path != EXPORT_NAME:
                destination.delete(path)
    if earlier:
        _delete_unfinished(request, folders)
    _mark(request, {"format": export_format, "state": "begun"})


def finish_place(request: ExportRequest, export_format: str, facts: Mapping[str, Any]) -> None:
    """Mark the export as whole, with what a later reader may want to know of it (JSON values)."""
    tree = {
        "format": export_format,
        "state": "whole",
        "source": request.header.source,
        "num_images": request.num_images,
        **facts,
    }
    _mark(request, tree)


def nothing_left(request: ExportRequest, dropped: Mapping[str, int]) -> ConfigError:
    """Return the error of an export that would hold nothing, with what was left out and why."""
    left_out = (
        "; ".join(f"{num:,} {reason}" for reason, num in dropped.items() if num) or "the run has no image with a mask"
    )
    return ConfigError(f"nothing of {request.run.root} is left to export: {left_out}")


def _earlier(request: ExportRequest, export_format: str) -> bool:
    """Return whether an export stands that may be replaced; raise where it may not."""
    destination = request.destination
    if not destination.exists(EXPORT_NAME):
        return False
    try:
        found = json.loads(destination.read_bytes(EXPORT_NAME))
        other, state = str(found["format"]), str(found.get("state", "whole"))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{destination.uri(EXPORT_NAME)} is no record of an export: delete it, or name another place"
        ) from None
    if other != export_format:
        raise ConfigError(f"{destination.root} holds an export of format {other}: name another place for this one")
    if state == "whole" and not request.is_overwriting:
        raise ConfigError(f"{destination.root} holds an export already: name another place, or give --overwrite")
    return True


def _delete_unfinished(request: ExportRequest, folders: Sequence[str]) -> None:
    """Delete what a killed export had begun to write: it may be many gigabytes, and no listing shows it."""
    destination = request.destination
    for folder in ("", *folders):
        for name, _ in list(destination.list_temporary(folder)):
            destination.delete(f"{folder}/{name}" if folder else name)
    for upload in list(destination.list_uploads()):
        destination.abort_upload(upload)


def _mark(request: ExportRequest, tree: Mapping[str, Any]) -> None:
    request.destination.replace(EXPORT_NAME, json.dumps(tree, indent=2, ensure_ascii=False).encode() + b"\n")
