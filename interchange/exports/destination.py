"""The destination of an export: claimed before anything is written, marked as complete at the end.

Called by `export_job.py`, `hub_repository.py` and `merged_parquet.py`. Only files of an export are deleted.
`_export.json` names the format and says whether the export is whole. If it is not, the export was killed, and the next
one of that format starts again.

Some formats have numbered folders 0, 1, 2, …, too many to list by name. They fill them in order, so behind an empty
folder lie at most the few that were written at the same time when an export was killed. Folders are emptied from the
last to the first, so that this also holds if the emptying is killed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.untrusted import parse_json, printable_json
from pseudoris.store.runs.lock import LOCK_FOLDER

EXPORT_NAME: Final = "_export.json"
# The record's field of the number of files by folder, which version 0.6 did not write.
STORED: Final = "stored"
# After this many empty folders no folder has a file, because `ManyFiles` writes fewer files at the same time.
_MAX_GAP: Final = 64
_REMEDY: Final = "Name an empty place for the export"
_DELETED_AT_ONCE: Final = 8


def claim_destination(
    destination: RunLocation,
    export_format: str,
    folders: Sequence[str],
    *,
    numbered: Callable[[int], str] | None = None,
    is_overwriting: bool,
    dataset: str | None = None,
) -> None:
    """Empty the folders of an earlier export of the format, and mark the destination as begun.

    The destination must be empty, or hold an export of the same format: one that was killed, or, to overwrite, a whole
    one. `folders` are all that it writes files into, itself excluded (files in folders below them are not looked at);
    `numbered` gives the path of a numbered folder by its number, from 0; `dataset` is a part of `folders`.
    """
    num_numbered = 0 if numbered is None else _num_folders(destination, numbered)
    last = [numbered(num_numbered - 1)] if numbered is not None and num_numbered else []
    # The check comes before the mark: a second try would find the mark, and delete foreign files as its own.
    earlier = has_earlier(destination, export_format, [*folders, *last], is_overwriting=is_overwriting)
    if earlier:
        for folder in ("", *folders):
            _empty(destination, folder)
        # Unfinished files of a killed export are deleted, because they may take gigabytes and no listing shows them.
        destination.delete_temporary("", *folders)
        for upload in list(destination.list_uploads()):
            destination.abort_upload(upload)
    mark(destination, {"format": export_format, "state": "begun", "dataset": dataset})
    # Folders after the last filled one are emptied too, because they may hold unfinished files, which no listing shows.
    for folder in map(numbered, reversed(range(num_numbered + _MAX_GAP))) if numbered is not None and earlier else ():
        _empty(destination, folder)
        destination.delete_temporary(folder)


def _files(destination: RunLocation, folder: str) -> Iterator[str]:
    """Yield the paths of a folder's files, without the record of the export."""
    paths = (f"{folder}/{file.name}" if folder else file.name for file in destination.list(folder))
    return (path for path in paths if path != EXPORT_NAME)


def _is_filled(destination: RunLocation, folder: str) -> bool:
    """Return whether a folder has anything but folders, at any depth: an export that failed may leave empty ones."""
    below = destination.list_obstacles(folder)
    return any(True for _ in destination.list(folder)) or any(
        kind != "a folder" or _is_filled(destination, f"{folder}/{name}") for name, kind in below
    )


def stored_files(
    destination: RunLocation, folders: Sequence[str], numbered: Callable[[int], str] | None
) -> Iterator[tuple[str, int]]:
    """Yield path and size of the files in the folders of an export, those of the numbered ones up to the first gap."""
    for folder in dict.fromkeys(folders):
        yield from ((f"{folder}/{file.name}", file.size_bytes) for file in destination.list(folder))
    for folder in map(numbered, count()) if numbered is not None else ():
        files = [(f"{folder}/{file.name}", file.size_bytes) for file in destination.list(folder)]
        if not files:
            return
        yield from files


def _empty(destination: RunLocation, folder: str) -> None:
    # Threads delete the files, because a deletion in a bucket is mostly waiting, and there may be a million files.
    for _ in map_in_threads(destination.delete, _files(destination, folder), _DELETED_AT_ONCE):
        pass


def mark(destination: RunLocation, record: Mapping[str, Any]) -> None:
    """Write the record of the export: its format, its state, and facts about it for later readers (JSON values)."""
    destination.replace(EXPORT_NAME, printable_json(record, indent=2).encode() + b"\n")


def unmark_empty(place: RunLocation, folders: Sequence[str], numbered: Callable[[int], str] | None) -> None:
    """Delete the record of an export that failed before its first file: another format may take the place."""
    has_files = any(True for folder in ("", *folders) for _ in _files(place, folder))
    if not has_files and (numbered is None or not _num_folders(place, numbered)):
        place.delete(EXPORT_NAME)


def earlier_record(destination: RunLocation) -> Mapping[str, Any] | None:
    """Return the record of the export at the destination, None if there is none; ConfigError if it is not one."""
    if not destination.exists(EXPORT_NAME):
        return None
    try:
        found = parse_json(destination.read_bytes(EXPORT_NAME))
        return {**found, "format": str(found["format"]), "state": str(found.get("state", "whole"))}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{destination.uri(EXPORT_NAME)} is not a record of an export. Delete it, or name another place."
        ) from None


def holds(destination: RunLocation, export_format: str, digest: str) -> bool:
    """Return whether the destination has the whole export of an `ExportRequest.digest`, with all its files and images.

    Files may be more or others than were written: a card is there to be edited.
    """
    record = earlier_record(destination) or {}
    facts = tuple(record.get(name) for name in ("format", "state", "request", "unread"))
    if facts != (export_format, "whole", digest, None):
        return False
    stored = record.get(STORED)
    due = stored.items() if isinstance(stored, dict) else ()
    return all(sum(1 for _ in destination.list(folder)) >= num for folder, num in due)


def has_earlier(destination: RunLocation, export_format: str, folders: Sequence[str], *, is_overwriting: bool) -> bool:
    """Return whether there is an export that may be replaced; raise if it may not, or if there are other files."""
    found = earlier_record(destination)
    if found is None:
        if path := next((path for folder in ("", *folders) for path in _files(destination, folder)), None):
            raise ConfigError(
                f"{destination.uri(path)} is not a file of an export and would be mixed with its files. Name an "
                "empty place."
            )
        # Beside a folder of images, the next plan would take the export's for more of them.
        destination.refuse_others(lambda name: name == LOCK_FOLDER or not _is_filled(destination, name), _REMEDY)
        return False
    if found["format"] != export_format:
        raise ConfigError(
            f"{destination.root} has an export of format {found['format']}. Name another place for this one."
        )
    if found["state"] == "whole" and not is_overwriting:
        raise ConfigError(
            f"{destination.root} already has an export. Name another place, or give --overwrite. `pseudoris combine` "
            "makes one run of several, to export them together."
        )
    dataset = found.get("dataset")
    if dataset is not None and not any(dataset in folder.split("/") for folder in folders):
        raise ConfigError(
            f"{destination.root} has an export with --dataset {dataset}, whose files would stay beside this one. Give "
            "the same --dataset, or name another place."
        )
    return True


def _num_folders(destination: RunLocation, numbered: Callable[[int], str]) -> int:
    """Return one more than the highest number of a folder with a file; few listings, whatever the number."""

    def is_empty_from(number: int) -> bool:
        return not any(True for near in range(number, number + _MAX_GAP) for _ in destination.list(numbered(near)))

    if is_empty_from(0):
        return 0
    above = 1
    while not is_empty_from(above):
        above *= 2
    # The end lies between `above // 2`, near which a folder is filled, and `above`, from which on none is.
    return bisect_left(range(above), True, lo=above // 2 + 1, key=is_empty_from)
