"""Where a run lives: whole files below one folder or prefix, created once, never torn, on disk or in a bucket."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import fsspec

from schemas.errors import ConfigError, TransientError
from schemas.placement import StorageConfig
from schemas.uris import refuse_secrets
from store.local_files import ListedFile, LocalFiles
from store.object_files import ObjectFiles
from store.s3_answers import Upload
from store.s3_files import S3Files
from store.storage_errors import storage_errors

__all__ = ["ListedFile", "RunLocation", "Upload"]

_ANY_PATH: Final = re.compile(r"(?s:.*)")
S3_PROTOCOLS: Final = ("s3", "s3a")
# Of files that are deleted a moment after they were created, unless their writer is killed in between.
PROBE_NAME: Final = re.compile(r"_probe-[0-9a-f]{16}")
_NEEDED: Final = (
    "a commit would not be safe. Use a store that honours conditional writes: AWS S3, MinIO, Ceph, or a local disk"
)


@dataclass(frozen=True, slots=True)
class RunLocation:
    """The output of a run; every path is relative to it, with `/`. Pickles, so that it travels to workers.

    Each operation raises `ConfigError` where the user must mend something (disk full, read-only, no
    rights) and `TransientError` where another try may help; both name the full path.

    Attributes:
        root: Absolute path, or uri, of the run's folder.
    """

    root: str
    _files: LocalFiles | S3Files | ObjectFiles

    @classmethod
    def open(cls, out: str, endpoint_url: str | None = None, limits: StorageConfig | None = None) -> Self:
        """Return the location `out`; nothing is touched yet, and it need not exist.

        Args:
            out: A local path or an fsspec url (`s3://bucket/prefix`).
            endpoint_url: Of another S3 store than AWS; None asks AWS_ENDPOINT_URL of the environment.
            limits: Time-outs and patience of an S3 store.

        Raises:
            ConfigError: The uri holds a secret, or its protocol or the package behind it is unknown.
        """
        refuse_secrets(out)
        protocol, _, rest = out.partition("://")
        if not rest or protocol in ("file", "local"):
            folder = Path(rest or out).expanduser().absolute()
            return cls(str(folder), LocalFiles(folder))
        if protocol in S3_PROTOCOLS:
            return cls(out.rstrip("/"), S3Files.at(out, endpoint_url, limits or StorageConfig()))
        try:
            # A cached listing would hide the receipts of other processes.
            filesystem, path = fsspec.url_to_fs(out, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {out!r}: {error}. Give a local path or s3://bucket/prefix") from None
        return cls(out.rstrip("/"), ObjectFiles(filesystem, path))

    def holds(self, other: RunLocation, folder: str = "") -> bool:
        """Return whether `other` is this place, or its `folder`, or lies below: by what links and `..` lead to."""
        outer = f"{_place(self.root)}/{folder}".rstrip("/")
        return f"{_place(other.root)}/".startswith(f"{outer}/")

    def uri(self, path: str) -> str:
        """Return the full address of `path`, as pyarrow, DuckDB and the like accept it."""
        return self._files.uri(path)

    def exists(self, path: str) -> bool:
        """Return whether a file stands at `path`; a folder does not count."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        with storage_errors("look at", self.uri(path)):
            return self._files.size(path)

    def read_bytes(self, path: str) -> bytes:
        """Return the whole file.

        Raises:
            FileNotFoundError: There is none.
        """
        with storage_errors("read", self.uri(path)):
            if isinstance(self._files, S3Files):
                return self._files.read(path)
            with self._files.open(path) as file:
                return file.read()

    def open_input(self, path: str) -> BinaryIO:
        """Return the file opened for reading, seekable, so that a range of it can be read.

        Raises:
            FileNotFoundError: There is none.
        """
        with storage_errors("open", self.uri(path)):
            return self._files.open(path)

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the files directly in `folder`, in no order; nothing where the folder does not exist."""
        with storage_errors("list", self.uri(folder)):
            yield from self._files.list(folder)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of unfinished files in `folder`; none in a bucket."""
        with storage_errors("list", self.uri(folder)):
            yield from self._files.list_temporary(folder)

    def list_uploads(self, paths: re.Pattern[str] = _ANY_PATH) -> Iterator[Upload]:
        """Yield the multipart uploads that were begun and never completed; none on a disk.

        Args:
            paths: Of what files, as a whole; others' may lie below the same prefix.
        """
        if isinstance(self._files, S3Files):
            with storage_errors("list uploads of", self.root):
                yield from self._files.list_uploads(paths)

    def abort_upload(self, upload: Upload) -> None:
        """Give an upload up, which frees what it holds; nothing happens where it is gone."""
        if isinstance(self._files, S3Files):
            with storage_errors("abort", self.root):
                self._files.abort_upload(upload)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create `path` with `data`, durably, all of it or nothing; of several callers one gets True.

        Returns:
            False where the file already stands. On other object stores than S3 also when a repeated
            request met its own first try: a caller whose content names its author reads it back.
        """
        with storage_errors("create", self.uri(path)):
            return self._files.create_once(path, data)

    def put_part(self, path: str, data: bytes) -> None:
        """Write a file whose name holds its content's hash; one of equal size is left alone.

        Killed halfway it leaves no file, or the whole one, never a torn one.
        """
        with storage_errors("write", self.uri(path)):
            if self._files.size(path) != len(data):
                self._files.put(path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Write `path` in place of whatever stands there; a reader sees the old file or the new one, whole."""
        with storage_errors("write", self.uri(path)):
            self._files.put(path, data)

    def temporary_path(self, path: str) -> Path | None:
        """Return a new path of this disk from where `replace_by` moves a file to `path` at once; None in a bucket."""
        return self._files.temporary_path(path) if isinstance(self._files, LocalFiles) else None

    def replace_by(self, path: str, local: Path) -> None:
        """Write `path` from a file of this disk, whole, in place of whatever stands there; bounded memory.

        On a disk the file is moved, so it must lie on the same one; into a bucket it is copied, in parts.
        """
        with storage_errors("write", self.uri(path)):
            self._files.put_file(path, local)

    def delete(self, path: str) -> None:
        """Delete the file; nothing happens where there is none."""
        with storage_errors("delete", self.uri(path)):
            self._files.delete(path)

    def probe(self) -> None:
        """Prove that the location can be written and that a second creation is refused.

        Raises:
            ConfigError: It cannot be written, or it ignores the condition, so that two writers of one
                receipt would both believe to have won.
        """
        path = _probe_name()
        try:
            is_first = self.create_once(path, b"first")
        except TransientError as error:
            if "HTTP 501" not in str(error):
                raise
            raise ConfigError(f"{self.root} does not know conditional writes (it answers 501): {_NEEDED}") from error
        try:
            is_second = self.create_once(path, b"second")
            content = self.read_bytes(path)
        finally:
            self.delete(path)
        if not is_first or is_second or content != b"first":
            raise ConfigError(
                f"{self.root} let a file be created twice: it ignores `If-None-Match: *` (or exclusive links on a "
                f"disk): {_NEEDED}"
            )

    def clock_s(self) -> float:
        """Return the time by the storage's clock, seconds since the epoch: that of a file written to learn it.

        0 where a listing does not show the file, so that nothing looks old.
        """
        path = _probe_name()
        try:
            self.create_once(path, b"clock")
            return next((file.modified_s for file in self.list("") if file.name == path), 0.0)
        finally:
            self.delete(path)


def _probe_name() -> str:
    return f"_probe-{secrets.token_hex(8)}"


def _place(root: str) -> str:
    protocol, separator, rest = root.partition("://")
    if separator:
        return f"{'s3' if protocol in S3_PROTOCOLS else protocol}://{rest.rstrip('/')}"
    return str(Path(root).resolve()).rstrip("/")
