"""Many small files read back in their order, several on their way at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from store.location import RunLocation
from store.threads import map_in_threads
from training.exports.mask_checks import broken

# In a bucket a small file is nearly all waiting; twice as many are held in memory.
_READERS: Final = 8


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
