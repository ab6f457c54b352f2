"""A place whose files stand in folders 0, 1, 2, …: more of them than a list of names could hold.

Folders are filled in the order of their numbers, so where one is empty the next ones are, but for the few that were
written at the same time when an export was killed. They are emptied from the last to the first, so that this stays true
when the emptying itself is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from schemas.errors import ConfigError
from store.location import RunLocation
from training.exports.protocol import ExportRequest
from training.exports.workspace import EXPORT_NAME, take_place

# Above what `ManyFiles` writes at the same time.
_MAX_GAP: Final = 64


def take_numbered_place(
    request: ExportRequest, export_format: str, folders: Sequence[str], numbered: Callable[[int], str]
) -> None:
    """Do what `workspace.take_place` does, for numbered folders too.

    Args:
        request: As there.
        export_format: Name of the format.
        folders: The other folders that it writes files into.
        numbered: Gives a folder's path by its number, from 0.

    Raises:
        ConfigError: Something else stands there, or an export that was not to be replaced.
    """
    destination = request.destination
    is_earlier = destination.exists(EXPORT_NAME)
    num_folders = _num_folders(destination, numbered)
    # Asked before the place is marked as ours: a second try must not take a stranger's files for its own.
    if num_folders and not is_earlier:
        raise ConfigError(
            f"{destination.uri(numbered(num_folders - 1))} holds files of no export, and they would be mixed with its "
            "files: name an empty place"
        )
    take_place(request, export_format, folders)
    # Beyond the last whole file there may be one that was begun, which no listing shows.
    for number in reversed(range(num_folders + _MAX_GAP if is_earlier else 0)):
        _empty(destination, numbered(number))


def _empty(destination: RunLocation, folder: str) -> None:
    names = [file.name for file in destination.list(folder)]
    for name in (*names, *[name for name, _ in destination.list_temporary(folder)]):
        destination.delete(f"{folder}/{name}")


def _num_folders(destination: RunLocation, numbered: Callable[[int], str]) -> int:
    """Return one more than the highest number of a folder with a file; few listings, whatever the number."""

    def is_empty_from(number: int) -> bool:
        return not any(True for near in range(number, number + _MAX_GAP) for _ in destination.list(numbered(near)))

    if is_empty_from(0):
        return 0
    above = 1
    while not is_empty_from(above):
        above *= 2
    below = above // 2
    # Of `below` something follows within the gap; from `above` on nothing does.
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if is_empty_from(middle) else (middle, above)
    return above
