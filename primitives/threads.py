"""Works on many files at once with threads, in bounded memory. Called by `store`, `interchange` and `training`.

Results come in the order of the items, whatever thread is faster: bytes of tables depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Generator[Result]:
    """Yield `work(item)` in the order of the items; at most `num_threads` run at once, and as many wait.

    Items are taken when threads are free, so the iterable may have any length. An error of `work` is raised in its
    item's turn. Items that have not begun by then, or when the caller stops, are skipped.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
