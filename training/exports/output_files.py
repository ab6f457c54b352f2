"""Files of an export: one large file, many small ones, and many read back in order.

A large file appears under its name complete or not at all, on a disk or in a bucket. Small files are written and read
several at a time, because each is a request, or a sync of the disk, which is mostly waiting.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pseudoris.schemas.errors import TransientError
from pseudoris.store.files.storage_errors import storage_errors
from pseudoris.store.location import RunLocation
from pseudoris.store.threads import map_in_threads
from pseudoris.training.exports.read_back import broken

_WRITERS: Final = 8
# In a bucket a small file is nearly all waiting; twice as many are held in memory.
_READERS: Final = 8


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file is at `path` of the destination once the block ends.

    Where the block raises, nothing appears. On a disk the file is written next to its final name; for a bucket it is
    written to this machine's temporary folder (TMPDIR), which must have room for it, and sent in parts: memory holds a
    few of them, for files of any size.

    Raises:
        ConfigError: It cannot be written there.
        TransientError: Storage failed.
    """
    with storage_errors("write", destination.uri(path)):
        beside = destination.temporary_path(path)
    if beside is None:
        with tempfile.TemporaryDirectory(prefix="pseudoris-export-") as folder:
            local = Path(folder) / "file"
            with storage_errors("write", str(local)):
                yield local
            destination.replace_by(path, local)
        return
    try:
        with storage_errors("write", destination.uri(path)):
            yield beside
        destination.replace_by(path, beside)
    finally:
        beside.unlink(missing_ok=True)


# What waits to be written is held in memory: so many files, and so many bytes or one file.
_MAX_PENDING: Final = 32
_MAX_PENDING_BYTES: Final = 128 * 2**20
_MODULUS: Final = 2**128


class ManyFiles:
    """Writes files in the background; the end of the block waits for all of them.

    Attributes:
        num_files: Given to be written so far.
        size_bytes: Size of all of them together.
    """

    def __init__(self, destination: RunLocation) -> None:
        self._destination = destination
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="export")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._pending_bytes = 0
        self._sums: dict[str, int] = {}
        self.num_files = 0
        self.size_bytes = 0

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Schedule the write of a file, complete or not at all; raises the error of an earlier file.

        Raises:
            ConfigError: It cannot be written there.
            TransientError: Storage failed.
        """
        while self._pending and not self._has_room(len(data)):
            self._finish_oldest()
        future = self._pool.submit(self._destination.replace, f"{folder}/{name}" if folder else name, data)
        self._pending.append((future, len(data)))
        self._pending_bytes += len(data)
        self._sums[folder] = (self._sums.get(folder, 0) + _digest(name, len(data))) % _MODULUS
        self.num_files += 1
        self.size_bytes += len(data)

    def check(self) -> None:
        """List the folders: every file is there with its size, and no other. Call it after the block.

        Names are combined by their digests, without order, so none is held in memory.

        Raises:
            TransientError: A file is missing, or there is one too many.
        """
        for folder, due in self._sums.items():
            found = sum(_digest(file.name, file.size_bytes) for file in self._destination.list(folder)) % _MODULUS
            if found != due:
                raise TransientError(
                    f"{self._destination.uri(folder)} does not have exactly the files that were written. Run the "
                    "same command again."
                )

    def _has_room(self, size_bytes: int) -> bool:
        return len(self._pending) < _MAX_PENDING and self._pending_bytes + size_bytes <= _MAX_PENDING_BYTES

    def _finish_oldest(self) -> None:
        future, size_bytes = self._pending.popleft()
        self._pending_bytes -= size_bytes
        future.result()

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the files that are on their way; after an error of the block no other is begun."""
        try:
            if kind is None:
                while self._pending:
                    self._finish_oldest()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _digest(name: str, size_bytes: int) -> int:
    return int.from_bytes(sha256(f"{size_bytes}/{name}".encode()).digest()[:16], "big")


def read_ahead(destination: RunLocation, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each file, in the order of the paths.

    Raises:
        TransientError: A file is missing, or storage failed.
    """

    def read(path: str) -> tuple[str, bytes]:
        try:
            return path, destination.read_bytes(path)
        except FileNotFoundError:
            raise broken(destination.uri(path), "it is missing") from None

    yield from map_in_threads(read, paths, _READERS)
