"""Spreads work over Ray tasks: indexing the tars and tables of SOURCE, and checking the shards of `verify`.

Called by `run_plan` and `cli/run_state`. Items come in the order of the listing, so that a plan
does not depend on the tasks; problems come in the order in which the checks end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Final

import ray

from pseudoris.files.location import RunLocation
from pseudoris.files.storage import StoredFile
from pseudoris.pipeline.cluster import task_result
from pseudoris.schemas.config import TaskPoolConfig
from pseudoris.store.checks.content import Problem
from pseudoris.store.checks.verification import CheckShards, ShardToCheck, check_shards
from pseudoris.store.sources import Source, SourceItem
from pseudoris.store.sources.containers import RowGroup, rows_of
from pseudoris.store.sources.items import LeftOut
from pseudoris.store.sources.source import Format

# A task indexes this many tars and tables, so that its start is cheap compared with its requests to a bucket.
_FILES_A_TASK: Final = 4
# At most this many tasks run, or have results of a few megabytes each that the driver has not read yet.
TASKS_IN_FLIGHT: Final = 64
# At most this many images wait in the driver's memory for an earlier tar that a task still indexes.
BUNDLES_WAITING: Final = 10_000
_TABLES: Final = ("parquet", "beside_tar")
# The index of a tar is its items. The index of a table is its row groups, because its rows would be too many to send.
_Index = list[SourceItem] | list[RowGroup]
# A task returns the index of each of its files, and what was left out of these files.
_Indices = tuple[list[_Index], LeftOut]
# `_Files` are consecutive files of the listing. A bundle adds the task that indexes them, or None for image files.
_Files = tuple[tuple[StoredFile, Format], ...]
_Bundle = tuple[_Files, "ray.ObjectRef[_Indices] | None"]
# A task of `verify` checks this many shards: starting it is then cheap compared with its reads. Both numbers bound the
# plan entries that the driver holds.
_SHARDS_A_TASK: Final = 4
_CHECKS_IN_FLIGHT: Final = 256


def list_on_cluster(source: Source, pool: TaskPoolConfig) -> Iterator[SourceItem]:
    """Yield the items of `source.list()` in the same order, and count `source.left_out`; tasks index tars and tables.

    A task has the resources of `pool`, that of reading. Every node must reach SOURCE, as it must to read the images.
    """
    is_empty = True
    for files, index in _indexed(source, pool):
        for item in _items(source, files, index):
            is_empty = False
            yield item
    if is_empty:
        raise source.lists_nothing()


def _indexed(source: Source, pool: TaskPoolConfig) -> Iterator[_Bundle]:
    """Yield bundles in the order of the listing, while tasks index the tars and tables of later ones."""
    index = ray.remote(_index).options(num_cpus=pool.num_cpus, resources=dict(pool.resources))
    source_ref = ray.put(source)
    waiting: deque[_Bundle] = deque()
    num_in_flight = 0
    for is_image, listed in groupby(source.files(), lambda file: file[1] == "files"):
        while files := tuple(islice(listed, 1 if is_image else _FILES_A_TASK)):
            waiting.append((files, None if is_image else index.remote(source_ref, files)))
            num_in_flight += not is_image
            # Images wait for tars listed before them, to keep the order. Without such tars they are yielded at once.
            while waiting and (
                waiting[0][1] is None or num_in_flight >= TASKS_IN_FLIGHT or len(waiting) >= BUNDLES_WAITING
            ):
                num_in_flight -= waiting[0][1] is not None
                yield waiting.popleft()
    yield from waiting


def _index(source: Source, files: _Files) -> _Indices:
    source.left_out.clear()
    indices: list[_Index] = [
        source.row_groups(file, format_) if format_ in _TABLES else list(source.items(file, format_))
        for file, format_ in files
    ]
    return indices, source.left_out


def _items(source: Source, files: _Files, index: ray.ObjectRef[_Indices] | None) -> Iterator[SourceItem]:
    if index is None:
        for file, format_ in files:
            yield from source.items(file, format_)
        return
    indices, left_out = task_result(index)
    source.left_out.add(left_out)
    for (file, format_), found in zip(files, indices, strict=True):
        # The format decides the type of `found`, which mypy cannot know.
        yield from rows_of(file, found) if format_ in _TABLES else found  # type: ignore[arg-type, misc]


def checking_on_cluster(pool: TaskPoolConfig) -> CheckShards:
    """Return a check for `verify_run` that runs in Ray tasks of `pool`; this process must be connected to Ray."""
    task = ray.remote(_check).options(num_cpus=pool.num_cpus, resources=dict(pool.resources))

    def check(location: RunLocation, shards: Iterator[ShardToCheck], quick: bool) -> Iterator[list[Problem]]:
        running: list[ray.ObjectRef[list[Problem]]] = []
        while some := list(islice(shards, _SHARDS_A_TASK)):
            running.append(task.remote(location, some, quick))
            if len(running) == _CHECKS_IN_FLIGHT:
                yield _first(running)
        while running:
            yield _first(running)

    return check


def _check(location: RunLocation, shards: list[ShardToCheck], quick: bool) -> list[Problem]:
    return [problem for problems in check_shards(location, iter(shards), quick) for problem in problems]


def _first(running: list[ray.ObjectRef[list[Problem]]]) -> list[Problem]:
    """Wait for the first task to end; remove it from `running` and return its problems."""
    (done,), _ = ray.wait(running, num_returns=1)
    running.remove(done)
    return task_result(done)
