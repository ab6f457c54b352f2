"""Many small files read back in their order, several on their way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from store.location import RunLocation
from training.exports.mask_checks import broken

# In a bucket a small file is nearly all waiting; what was read and not yet asked for is held in memory.
_READERS: Final = 8
_MAX_AHEAD: Final = 16


def read_ahead(destination: RunLocation, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each file, in the order of the paths.

    Raises:
        TransientError: A file is missing, or storage failed.
    """
    pending: deque[tuple[str, Future[bytes]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="export-check") as pool:
        try:
            for path in paths:
                pending.append((path, pool.submit(destination.read_bytes, path)))
                if len(pending) >= _MAX_AHEAD:
                    yield _result(destination, *pending.popleft())
            while pending:
                yield _result(destination, *pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(destination: RunLocation, path: str, future: Future[bytes]) -> tuple[str, bytes]:
    try:
        return path, future.result()
    except FileNotFoundError:
        raise broken(destination.uri(path), "it is missing") from None
