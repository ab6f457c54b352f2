"""`gc`: deletes files of failed or replaced attempts: parts that lost, replaced generations, files of killed writers.

Called by `cli`, `pipeline`, `sessions`, `planned_run`; `checks` asks for stray files. Shards without a receipt keep all
files, so gc is safe at any time, during a run, without a lock. Parts must be listed before receipts: every deleted part
is then older than the receipt that replaces it. `remove_run` deletes a whole run, such as the temporary one of
`estimate`.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pseudoris.files.location import PROBE_NAME, RunLocation
from pseudoris.files.storage import Upload, shown_uri, storage_errors
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.ids import PART_NAME, part_name
from pseudoris.schemas.run_records import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER, Receipt
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.attempts import ATTEMPT_NAME, ATTEMPTS_FOLDER, attempts_of
from pseudoris.store.runs.header import EXTENSION_NAME, read_header
from pseudoris.store.runs.lock import LOCK_FOLDER, current_holder
from pseudoris.store.runs.manifest import is_manifest_complete
from pseudoris.store.runs.plan import moved_parts, remove_moved
from pseudoris.store.runs.receipts import list_receipts, read_receipts
from pseudoris.store.tables.parts import part_sizes

logger = logging.getLogger(__name__)

# Temporary files older than this (in seconds) are deleted. A younger one may still be in use by its writer.
TEMPORARY_AGE_S: Final = 3_600.0

# Only uploads of these files are aborted: SOURCE may lie below the run's prefix and have uploads of its own.
_RUN_FILE: Final = re.compile(
    rf"({'|'.join(SCHEMAS)})/{PART_NAME.pattern}"
    rf"|({PLAN_FOLDER}|{RECEIPTS_FOLDER}|{MANIFEST_FOLDER})/.+|{re.escape(HEADER_NAME)}"
)
# What stands at the top of OUT, or stays there of a run that is gone.
_OF_A_RUN: Final = re.compile(
    rf"_run\.json|_(plan|receipts|manifest|attempts|lock)|_audit\.json|_left_out\.parquet|{PROBE_NAME.pattern}"
    rf"|{'|'.join(SCHEMAS)}|DATACARD\..*|gallery"
)


@dataclass(frozen=True, slots=True)
class GcReport:
    """Paths that were deleted, or would be, relative to the run, bytes of the parts among them, and aborted uploads.

    Attributes:
        lost: Parts of a generation whose receipt names other parts, and what killed retries left.
        superseded: Parts of generations below the latest one.
        abandoned: Temporary files of killed writers, probes of killed sessions, attempt records that a commit made
            obsolete.
    """

    lost: tuple[str, ...]
    superseded: tuple[str, ...]
    abandoned: tuple[str, ...]
    freed_bytes: int
    num_uploads: int = 0

    @property
    def deleted(self) -> tuple[str, ...]:
        """All paths."""
        return (*self.lost, *self.superseded, *self.abandoned)


def _doomed(
    location: RunLocation, parts: Mapping[str, Iterable[str]], highest: Mapping[int, int]
) -> tuple[list[str], list[str], list[str]]:
    """Return the paths of parts that lost, of those of superseded generations, and of those of a retry in progress."""
    # Only receipts of suspects are read: shards with several parts in a table, or with a part of an old generation.
    suspects: set[int] = set()
    for names in parts.values():
        commits = [commit for commit in map(_commit_of, names) if commit and commit[0] in highest]
        num_parts = Counter(shard for shard, _ in commits)
        suspects |= {shard for shard, generation in commits if num_parts[shard] > 1 or generation != highest[shard]}
    commits = [(shard, highest[shard]) for shard in sorted(suspects)]
    latest = {receipt.shard: receipt for receipt in read_receipts(location, commits)}
    # A shard without a receipt keeps all its parts.
    lost, superseded, newer = list[str](), list[str](), list[str]()
    for table, listed in parts.items():
        names = set(listed)
        for name in sorted(names):
            commit = _commit_of(name)
            receipt = latest.get(commit[0]) if commit else None
            # If the part that the receipt names is missing, the shard's other parts stay: they may be all that is left.
            if commit is None or receipt is None or receipt.parts[table].name not in names:
                continue
            is_superseded = commit[1] < receipt.generation
            has_lost = commit[1] == receipt.generation and name != receipt.parts[table].name
            lost += [f"{table}/{name}"] if has_lost else []
            superseded += [f"{table}/{name}"] if is_superseded else []
            newer += [f"{table}/{name}"] if commit[1] > receipt.generation else []
    return lost, superseded, newer


def run_gc(
    location: RunLocation,
    *,
    is_dry: bool = False,
    now_s: float | None = None,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
    has_ended: bool = False,
) -> GcReport:
    """Delete parts that no reader needs, and temporary files and uploads older than `TEMPORARY_AGE_S`; report it.

    A dry run writes nothing, so it uses this machine's clock; else `now_s` is by default the storage's time. `sizes`
    are those of the parts, if they were just listed (`part_sizes`). Parts of a retry without a receipt stay, unless
    the caller holds the lock, its work `has_ended`, and they are as old: a task of a dead driver may still commit
    them. Plans of a moved SOURCE go when its work has ended. ConfigError if the header or a receipt cannot be used.
    """
    # Two guards against a second driver, whatever the caller has read: the header that stands now must be sound, and
    # receipts are listed after the parts.
    read_header(location)
    sizes = part_sizes(location) if sizes is None else sizes
    highest = list_receipts(location)
    lost, superseded, newer = _doomed(location, sizes, highest)
    killed = {f"{table}/{file.name}": file.modified_s for table in sizes if newer for file in location.list(table)}
    unfinished, uploads = list(list_unfinished(location)), abandoned_uploads(location)
    if now_s is None and (unfinished or uploads or newer):
        now_s = time.time() if is_dry else location.clock_s()
    limit_s = (now_s or 0.0) - TEMPORARY_AGE_S
    lost += [path for path in newer if has_ended and killed.get(path, limit_s) < limit_s]
    freed = sum(sizes[path.partition("/")[0]][path.partition("/")[2]] for path in (*lost, *superseded))
    leftovers = [path for path, modified_s in unfinished if modified_s < limit_s]
    leftovers += attempts_of(location, highest.items())
    leftovers += moved_parts(location) if has_ended else []
    uploads = [upload for upload in uploads if upload.started_s < limit_s]
    report = GcReport(tuple(lost), tuple(superseded), tuple(leftovers), freed, len(uploads))
    for path in () if is_dry else report.deleted:
        location.delete(path)
    for upload in () if is_dry else uploads:
        location.abort_upload(upload)
    if has_ended and not is_dry:
        remove_moved(location)
    return report


def list_unfinished(location: RunLocation) -> Iterator[tuple[str, float]]:
    """Yield path and time (epoch seconds) of files that exist only while their writer runs."""
    # The folders are listed, because a killed `--extend` may leave one that no header names.
    plans = sorted(name for name, what in location.list_obstacles(PLAN_FOLDER) if what == "a folder")
    records = ("", ATTEMPTS_FOLDER, LOCK_FOLDER, RECEIPTS_FOLDER, MANIFEST_FOLDER, PLAN_FOLDER)
    for folder in (*records, *(f"{PLAN_FOLDER}/{name}" for name in plans), *SCHEMAS):
        for name, modified_s in location.list_temporary(folder):
            yield f"{folder}/{name}" if folder else name, modified_s
    for file in location.list(""):
        if PROBE_NAME.fullmatch(file.name):
            yield file.name, file.modified_s


def abandoned_uploads(location: RunLocation) -> list[Upload]:
    """Return the unfinished uploads of the run's files; never uploads of other files below its prefix.

    If they cannot be listed, log a warning and return none: listing needs a separate permission, some stores do not
    support it, and a run must not depend on it.
    """
    try:
        return list(location.list_uploads(_RUN_FILE))
    except (ConfigError, TransientError) as error:
        logger.warning(
            "Abandoned uploads are not deleted: listing them needs the right s3:ListBucketMultipartUploads: %s", error
        )
        return []


def _commit_of(name: str) -> tuple[int, int] | None:
    match = PART_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def remove_run(location: RunLocation) -> None:
    """Delete every file of the run at `location`; do nothing if there is none. No driver may be working on it."""
    if "://" not in location.root:
        with storage_errors("delete", location.root):
            shutil.rmtree(location.root, ignore_errors=not Path(location.root).exists())
        return
    # Receipts are deleted first: if the deletion is interrupted, readers find no committed shard in the rest.
    plans = (PLAN_FOLDER, f"{PLAN_FOLDER}/g0001")
    folders = (RECEIPTS_FOLDER, "", *SCHEMAS, *plans, MANIFEST_FOLDER, ATTEMPTS_FOLDER, LOCK_FOLDER)
    for folder in folders:
        for file in list(location.list(folder)):
            location.delete(f"{folder}/{file.name}" if folder else file.name)
    for upload in abandoned_uploads(location):
        location.abort_upload(upload)


def remove_leftovers(location: RunLocation) -> None:
    """Delete what a run without header and results left: extensions of its plan, attempts, and parts; under its lock.

    Parts of its plan stay: no header names them, and an equal plan uses them again.
    """
    left = {PLAN_FOLDER: EXTENSION_NAME, ATTEMPTS_FOLDER: ATTEMPT_NAME, **dict.fromkeys(SCHEMAS, PART_NAME)}
    for folder, name in left.items():
        for file in [file for file in location.list(folder) if name.fullmatch(file.name)]:
            location.delete(f"{folder}/{file.name}")


class NamedParts:
    """The parts that the latest receipts name, in 28 bytes per shard: one process can verify millions of shards."""

    def __init__(self, commits: Mapping[int, int]) -> None:
        """Reserve memory for `commits`, the latest generation by shard, in the order of the shards."""
        self._shards = np.fromiter(commits.keys(), np.int64, len(commits))
        self._generations = np.fromiter(commits.values(), np.int32, len(commits))
        self._digests = np.zeros((len(commits), len(SCHEMAS)), np.uint32)

    def add(self, receipt: Receipt) -> None:
        """Record the parts of a latest receipt."""
        row = bisect_left(self._shards, receipt.shard)
        for column, table in enumerate(SCHEMAS):
            if match := PART_NAME.fullmatch(receipt.parts[table].name):
                self._digests[row, column] = int(match[3], 16)

    def has(self, table: str, name: str) -> bool:
        """Return whether a file in a table's folder is a part of an added receipt."""
        match = PART_NAME.fullmatch(name)
        if match is None:
            return False
        row = bisect_left(self._shards, int(match[1]))
        if row == len(self._shards):
            return False
        digest = f"{self._digests[row, list(SCHEMAS).index(table)]:08x}"
        return name == part_name(int(self._shards[row]), int(self._generations[row]), digest)


def stray_files(
    location: RunLocation, named: NamedParts, latest: Mapping[int, int], *, is_whole: bool
) -> Iterator[str]:
    """Yield a sentence for each file in a table folder that does not belong to the committed run.

    A name that begins with a dot is no exception: DuckDB and polars read `.x.parquet` and fail on `._x.parquet`. A part
    that no receipt names is skipped while the run is in progress: it may soon be committed, or deleted by gc. The run
    has ended when a manifest holds all latest receipts, because the last manifest is written after gc.

    `named` has the parts of the latest receipts, of every planned shard if `is_whole`. `latest` has the latest
    generation by shard, listed before the folders.
    """
    has_ended = is_whole and is_manifest_complete(location, latest)
    unnamed: list[str] = []
    for table in SCHEMAS:
        for name, what in _entries(location, table):
            # A folder that has the name of a committed part is no stray: the check of its shard reports it.
            if named.has(table, name):
                continue
            if what is not None or PART_NAME.fullmatch(name) is None:
                yield _unexpected(shown_uri(f"{table}/{name}"), what)
            elif has_ended:
                unnamed.append(f"{table}/{name}")
    # The lock is checked after the listing, because a driver takes the lock before it writes a part.
    if unnamed and not is_driven(location):
        for path in unnamed:
            yield (
                f"{path} is in no receipt. Readers that glob its folder will include it. Run gc, or, if gc leaves it, "
                "the run's command an hour after its last one; or move it out"
            )


def refuse_unexpected_files(location: RunLocation) -> None:
    """Raise ConfigError if the folder of a new run holds anything but runs write, or its table folders but parts.

    Readers would include the latter. Parts of an earlier run may stay: the new run's gc deletes them.
    """
    remedy = "Name a new or an empty folder as OUT, the last argument"
    location.refuse_others(_OF_A_RUN.fullmatch, remedy)
    location.refuse_others({"index.html", "quality.html", "pictures", LOCK_FOLDER}.__contains__, remedy, "gallery")
    for table in SCHEMAS:
        for name, what in _entries(location, table):
            if what is not None or PART_NAME.fullmatch(name) is None:
                found = _unexpected(shown_uri(location.uri(f"{table}/{name}")), what)
                raise ConfigError(f"{found}, or name another OUT: a new run writes its table {table} there")


def is_driven(location: RunLocation) -> bool:
    """Return whether a driver may be working on the run: its lock is held, and the holder is not known to be gone."""
    holder = current_holder(location)
    return holder is not None and not holder.is_gone


def _entries(location: RunLocation, table: str) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each file in a table's folder with None, and of what is not a file with its kind."""
    yield from ((file.name, None) for file in location.list(table))
    yield from location.list_obstacles(table)


def _unexpected(path: str, what: str | None) -> str:
    if what is None:
        return f"{path} is an unexpected file. Readers that glob its folder will include it. Move it out"
    return f"{path} is {what}. Readers of its folder may include what is in it, or fail. Move it out"
