"""Objects of any other store behind fsspec (`gs://…`, `az://…`): whole puts, no rename, creation where there is none.

Trying again is the client's own business here; S3 has a module of its own, where it is ours.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from store.local_files import ListedFile


class ObjectFiles:
    """The operations of `LocalFiles` on an fsspec file system; paths are relative to `root`.

    A put is atomic on object stores: a reader sees the old object or the new one, never a half.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def uri(self, path: str) -> str:
        """Return the object's uri with its protocol, `gs://bucket/prefix/…`."""
        return str(self._filesystem.unstrip_protocol(self._at(path)))

    def open(self, path: str) -> BinaryIO:
        """Return the object opened for ranged reading, seekable."""
        with _client_errors():
            return cast("BinaryIO", self._filesystem.open(self._at(path), "rb"))

    def size(self, path: str) -> int | None:
        """Return the object's size in bytes, None where there is none."""
        try:
            with _client_errors():
                info = self._filesystem.info(self._at(path))
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, in no order; nothing where there are none."""
        try:
            with _client_errors():
                entries = self._filesystem.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry["type"] == "file":
                yield ListedFile(entry["name"].rpartition("/")[2], int(entry["size"]), _modified_s(entry))

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield nothing: an unfinished put leaves no object."""
        yield from ()

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object on the condition that there is none; False where it already stands.

        A retry inside the client whose first try arrived unanswered also gives False: whoever must
        know reads the object back.
        """
        try:
            with _client_errors():
                self._filesystem.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Write the object in place of whatever stands there."""
        with _client_errors():
            self._filesystem.pipe_file(self._at(path), data)

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a file of this disk, in place of whatever stands there."""
        with _client_errors():
            self._filesystem.put_file(str(local), self._at(path))

    def delete(self, path: str) -> None:
        """Delete the object; nothing happens where there is none."""
        try:
            with _client_errors():
                self._filesystem.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


@contextmanager
def _client_errors() -> Iterator[None]:
    """Turn a client's own kind of error into an OSError; its text stays out, which may repeat a signed url."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"the store's client raised {type(error).__name__}") from error


def _modified_s(entry: Mapping[str, Any]) -> float:
    for name in ("LastModified", "mtime", "modified", "updated", "last_modified", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    # A store that keeps no times: as old as can be.
    return 0.0
