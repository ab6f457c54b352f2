"""The root of SOURCE, which keys are relative to: a storage to read, and the meaning of its errors for a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ConfigError, ImageError, RefusedError, TransientError
from pseudoris.schemas.placement import StorageConfig
from pseudoris.store.files.storage import Kind, Mark, MayDescend, Storage, StoredFile
from pseudoris.store.files.storage_at import local_path, storage_at
from pseudoris.store.files.storage_errors import listing_errors, printable, transient_faults


@dataclass(frozen=True, slots=True)
class SourceRoot:
    """A storage of input. Pickles.

    While SOURCE is listed (`kind`, `walk`, `read`), errors that the user must correct are a `ConfigError`. During a run
    (`stat`, `open`, `open_version`) an image's fault is an `ImageError` or FileNotFoundError, every other fault a
    `TransientError`. Denied access is a `RefusedError`: it may be either.

    Attributes:
        storage: The storage that holds the files.
    """

    storage: Storage

    @property
    def max_readers(self) -> int:
        """How many files to read at once."""
        return self.storage.max_readers

    @property
    def store(self) -> str:
        """Name of the kind of store: objects of one kind are read with the same credentials."""
        protocol, separator, _ = self.storage.uri().partition("://")
        return ("web" if protocol in ("http", "https") else protocol) if separator else "disk"

    def describe(self, path: str = "") -> str:
        """Return the full path or uri, for messages."""
        return printable(self.storage.uri(path))

    def kind(self, path: str) -> Kind:
        """Return the kind of `path`."""
        with listing_errors("look at", self.describe(path), faults=self.storage.faults):
            return self.storage.kind(path)

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the files below the root in the order of their keys; the arguments are those of `Storage.walk`."""
        yield from self.storage.walk(may_descend, exclude, mark)

    def read(self, path: str) -> bytes:
        """Return a whole file, before a run starts. Raises: FileNotFoundError: there is none."""
        with listing_errors("read", self.describe(path), faults=self.storage.faults):
            return self.storage.read(path)

    def stat(self, path: str) -> StoredFile:
        """Return the file's present state. Raises like `open_version`, but `changed`."""
        with transient_faults("look at", self.describe(path), faults=self.storage.faults):
            return self.storage.stat(path)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for reading in a block. Raises like `open_version`, but `changed`."""
        with (
            transient_faults("read", self.describe(path), faults=self.storage.faults),
            self.storage.open(path) as stream,
        ):
            yield stream

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version of a file for a block.

        Args:
            path: Of the file.
            expected: Etag, time and size that it must have; None is not checked.
            window_bytes: Smallest number of bytes to fetch at once: for many small reads that are close together.

        Raises:
            ImageError: `changed`, at the latest at the end of the block: what was read must not be used; `unreadable`.
            FileNotFoundError: There is none.
            RefusedError: Access is denied.
            TransientError: The storage failed.
        """
        with (
            transient_faults("read", self.describe(path), faults=self.storage.faults),
            self.storage.open_version(path, expected, window_bytes=window_bytes) as stream,
        ):
            yield stream

    @contextmanager
    def open_listed(self, file: StoredFile, *, window_bytes: int) -> Iterator[BinaryIO]:
        """Open a file that was just listed, for the block.

        Raises:
            ConfigError: It vanished since, or cannot be opened: its images are not known, so none can be quarantined.
            TransientError: It changed since, or the storage failed.
        """
        uri = self.describe(file.path)
        try:
            with self.open_version(file.path, file, window_bytes=window_bytes) as stream:
                yield stream
        except ImageError as error:
            if error.reason == "changed":
                raise TransientError(f"{uri} changed while it was being listed: run the same command again") from error
            raise ConfigError(f"{uri} cannot be opened ({error}): repair it, or remove it from SOURCE") from error
        except RefusedError as error:
            raise ConfigError(
                f"access to {uri} is denied: grant these credentials, or this user, the right to read it, or remove it "
                "from SOURCE"
            ) from error
        except FileNotFoundError as error:
            if file.size_bytes is None:
                raise ConfigError(f"{uri} is a link that leads nowhere: repair it, or remove it from SOURCE") from error
            raise ConfigError(f"{uri} vanished while SOURCE was listed: run the same command again") from error


def root_at(location: str, config: SourceConfig, limits: StorageConfig | None = None) -> SourceRoot:
    """Return the root at a local path or an fsspec url; it need not exist.

    Links of a local path are followed: a folder has one name, however it was reached.

    Raises:
        ConfigError: The protocol is unknown, or its package is missing.
    """
    folder = local_path(location)
    # Unlike `Path.resolve`, this takes a link to itself as it is.
    resolved = location if folder is None else os.path.realpath(folder)
    return SourceRoot(storage_at(resolved, config.endpoint_url, limits, requester_pays=config.requester_pays))
