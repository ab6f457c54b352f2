"""Many small files into a destination, several at once.

Each is a request, or a sync of the disk: nearly all of its time is waiting.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from types import TracebackType
from typing import Final, Self

from schemas.errors import TransientError
from store.location import RunLocation

_WRITERS: Final = 8
# What waits to be written is held in memory: so many files, and so many bytes or one file.
_MAX_PENDING: Final = 32
_MAX_PENDING_BYTES: Final = 128 * 2**20
_MODULUS: Final = 2**128


class ManyFiles:
    """Writes files in the background; the end of the block waits for all of them.

    Attributes:
        num_files: Given to be written so far.
        size_bytes: Of all of them.
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
        """Write a file, whole or not at all, soon; raises what an earlier one failed with.

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
        """List the folders: every file stands with its size, and no other does. To be asked once the block has ended.

        Names are summed up by their digests, in no order, so that memory holds none of them.

        Raises:
            TransientError: A file is missing, or one too many stands there.
        """
        for folder, due in self._sums.items():
            found = sum(_digest(file.name, file.size_bytes) for file in self._destination.list(folder)) % _MODULUS
            if found != due:
                raise TransientError(
                    f"{self._destination.uri(folder)} does not hold exactly the files that were written: run the same "
                    "command again"
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
