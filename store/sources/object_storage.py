"""Objects of any other store that fsspec knows (`gs://`, `https://`, …), listed in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, BinaryIO, Literal, Self, cast

import fsspec

from schemas.errors import ConfigError
from store.sources.faults import denial_is_final, transient_faults
from store.sources.items import MayDescend, StoredFile
from store.sources.keys import path_key
from store.sources.versions import looked_at_twice


class ObjectStorage:
    """A prefix in an object store.

    Whatever a client raises, other than that an object is not there, is an error of storage: the
    libraries below fsspec have no common base for lost connections and timeouts.

    Attributes:
        faults: What a client may raise.
        max_readers: Objects that are worth reading at once.
    """

    faults: tuple[type[Exception], ...] = (Exception,)
    max_readers: int = 8

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        """Keep the prefix `root`, as the file system writes it, without its last slash."""
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    @classmethod
    def at(cls, uri: str) -> Self:
        """Return the storage at `uri`; nothing is asked of it yet.

        Raises:
            ConfigError: The protocol is unknown, or its package is missing.
        """
        try:
            # A cached listing would show objects as they were, not as they are.
            filesystem, root = fsspec.url_to_fs(uri, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {uri!r}: {error}. Give a local path or s3://bucket/prefix") from None
        return cls(filesystem, root)

    def describe(self, path: str = "") -> str:
        """Return the full uri."""
        return str(self._filesystem.unstrip_protocol(self._at(path)))

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what stands at `path`; a folder is a prefix below which something stands."""
        uri = self.describe(path)
        try:
            with transient_faults("look at", uri, faults=self.faults), denial_is_final(uri):
                found = self._filesystem.info(self._at(path))
        except FileNotFoundError:
            return None
        return "file" if found["type"] == "file" else "folder"

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys; memory grows with the largest single folder."""
        shut = None if exclude is None else self._filesystem._strip_protocol(exclude).rstrip("/")
        yield from self._walk((), may_descend, shut)

    def stat(self, path: str) -> StoredFile:
        """Return the object as it stands now."""
        with transient_faults("look at", self.describe(path), faults=self.faults):
            found = self._filesystem.info(self._at(path))
            if found["type"] != "file":
                raise FileNotFoundError(path)
        return StoredFile(path, found["size"], etag=_etag(found))

    def open(self, path: str) -> BinaryIO:
        """Return the object opened for ranged reads."""
        with transient_faults("open", self.describe(path), faults=self.faults):
            return cast("BinaryIO", self._filesystem.open(self._at(path), "rb"))

    def reading(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> AbstractContextManager[BinaryIO]:
        """Open the expected version, which is looked at before and after; reads go by the client's own blocks."""
        return looked_at_twice(self, path, expected)

    def _walk(self, parts: tuple[str, ...], may_descend: MayDescend, shut: str | None) -> Iterator[StoredFile]:
        folder = self._at("/".join(parts))
        uri = self.describe("/".join(parts))
        with transient_faults("list", uri, faults=self.faults), denial_is_final(uri):
            entries = self._filesystem.ls(folder, detail=True)
        named = [(entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in entries]
        for name, entry in sorted(named, key=_order):
            path = (*parts, name)
            full = entry["name"].rstrip("/")
            # Consoles create an empty object for the folder itself.
            if full == folder or not name:
                continue
            if entry["type"] == "file":
                yield StoredFile("/".join(path), entry["size"], etag=_etag(entry))
            elif full != shut and may_descend(path):
                yield from self._walk(path, may_descend, shut)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def _order(named: tuple[str, Mapping[str, Any]]) -> str:
    name, entry = named
    return path_key(name) + ("" if entry["type"] == "file" else "/")


def _etag(entry: Mapping[str, Any]) -> str | None:
    for name in ("ETag", "etag"):
        if entry.get(name):
            return str(entry[name]).strip('"')
    # A store without etags: the time of the last change tells versions apart.
    for name in ("LastModified", "mtime", "modified", "updated", "created"):
        value = entry.get(name)
        if value is not None:
            return f"modified-{value.timestamp() if isinstance(value, datetime) else value}"
    return None
