"""Deletes files of failed or replaced attempts: parts that lost, replaced generations, files of killed writers.

Shards without a receipt are not touched, so gc is safe at any time, during a run, without a lock. Parts are listed
before receipts: every deleted part is older than the receipt that replaces it.

`remove_run` deletes a whole run, such as the temporary run of `estimate`.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.ids import PART_NAME
from pseudoris.schemas.run_records import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER, Receipt
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.files.storage import Upload
from pseudoris.store.files.storage_errors import storage_errors
from pseudoris.store.location import PROBE_NAME, RunLocation
from pseudoris.store.runs.attempts import ATTEMPTS_FOLDER, attempts_of
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.lock import LOCK_FOLDER
from pseudoris.store.runs.receipts import list_receipts, read_receipts

logger = logging.getLogger(__name__)

# No write of one file takes this long; a younger temporary file may belong to a running writer.
TEMPORARY_AGE_S: Final = 3_600.0

# SOURCE may be below the run's prefix: its writers must not lose an upload.
_RUN_FILE: Final = re.compile(
    rf"({'|'.join(SCHEMAS)})/{PART_NAME.pattern}"
    rf"|({PLAN_FOLDER}|{RECEIPTS_FOLDER}|{MANIFEST_FOLDER})/.+|{re.escape(HEADER_NAME)}"
)


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was deleted, or would be: paths relative to the run, and the bytes of the parts among them.

    Attributes:
        lost: Parts of a generation whose receipt names other parts.
        superseded: Parts of generations below the latest one.
        abandoned: Temporary files of killed writers, probes of killed sessions, and attempt records that a commit made
            obsolete.
        freed_bytes: Bytes of the deleted parts.
        num_uploads: Aborted multipart uploads of the run's own files.
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


def plan_gc(parts: Mapping[str, Iterable[str]], latest: Mapping[int, Receipt]) -> list[str]:
    """Return the paths of the parts that can be deleted.

    Args:
        parts: File names by table. Names that are not part names are ignored.
        latest: The latest receipt by shard. A shard that is not in it keeps all parts, and so does a generation above
            the latest one: both may be in progress.
    """
    doomed = []
    for table, listed in parts.items():
        names = set(listed)
        for name in sorted(names):
            commit = _commit_of(name)
            receipt = latest.get(commit[0]) if commit else None
            # If the named part is lost, or its receipt was edited, the other parts may be all that is left.
            if commit is None or receipt is None or receipt.parts[table].name not in names:
                continue
            is_superseded = commit[1] < receipt.generation
            has_lost = commit[1] == receipt.generation and name != receipt.parts[table].name
            if is_superseded or has_lost:
                doomed.append(f"{table}/{name}")
    return doomed


def run_gc(
    location: RunLocation,
    *,
    is_dry: bool = False,
    temporary_age_s: float = TEMPORARY_AGE_S,
    now_s: float | None = None,
) -> GcReport:
    """Delete what `plan_gc` returns, and temporary files and uploads older than `temporary_age_s`; report it.

    Args:
        location: The run's folder.
        is_dry: Delete nothing; only report what would be deleted.
        temporary_age_s: Seconds by the storage's clock.
        now_s: Seconds since the epoch; by default the present time of the storage's clock. A dry run writes nothing, so
            it uses this machine's clock.

    Raises:
        ConfigError: The header or a receipt cannot be used, or the location cannot be written.
        TransientError: Storage failed.
    """
    read_header(location)  # refuses a damaged one, before anything is deleted
    sizes = {table: {file.name: file.size_bytes for file in location.list(table)} for table in SCHEMAS}
    highest = list_receipts(location)
    suspects = _suspects(sizes, highest)
    latest = {each.shard: each for each in read_receipts(location, ((s, highest[s]) for s in suspects))}
    doomed = plan_gc(sizes, latest)
    freed = sum(sizes[path.partition("/")[0]][path.partition("/")[2]] for path in doomed)
    unfinished, uploads = list(list_unfinished(location)), abandoned_uploads(location)
    if now_s is None and (unfinished or uploads):
        now_s = time.time() if is_dry else location.clock_s()
    limit_s = (now_s or 0.0) - temporary_age_s
    leftovers = [path for path, modified_s in unfinished if modified_s < limit_s]
    leftovers += attempts_of(location, highest.items())
    uploads = [upload for upload in uploads if upload.started_s < limit_s]
    is_old = [_is_superseded(path, highest) for path in doomed]
    report = GcReport(
        lost=tuple(path for path, old in zip(doomed, is_old, strict=True) if not old),
        superseded=tuple(path for path, old in zip(doomed, is_old, strict=True) if old),
        abandoned=tuple(leftovers),
        freed_bytes=freed,
        num_uploads=len(uploads),
    )
    for path in () if is_dry else report.deleted:
        location.delete(path)
    for upload in () if is_dry else uploads:
        location.abort_upload(upload)
    return report


def list_unfinished(location: RunLocation) -> Iterator[tuple[str, float]]:
    """Yield path and time (epoch seconds) of files that exist only while their writer runs."""
    # Also of an extension that was killed before its header: no header names its folder.
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

    If they cannot be listed, log a warning and return none: listing needs a separate permission
    (s3:ListBucketMultipartUploads), some stores do not support it, and a run must not depend on it.
    """
    try:
        return list(location.list_uploads(_RUN_FILE))
    except (ConfigError, TransientError) as error:
        logger.warning(
            "Abandoned uploads are not deleted: listing them needs the right s3:ListBucketMultipartUploads: %s", error
        )
        return []


def _is_superseded(path: str, highest: Mapping[int, int]) -> bool:
    commit = _commit_of(path.rpartition("/")[2])
    return commit is not None and commit[1] < highest[commit[0]]


def _suspects(parts: Mapping[str, Iterable[str]], highest: Mapping[int, int]) -> list[int]:
    """Return the committed shards with more than one part in a table: only their receipts need to be read."""
    suspects: set[int] = set()
    for names in parts.values():
        commits = [commit for commit in map(_commit_of, names) if commit and commit[0] in highest]
        num_parts = Counter(shard for shard, _ in commits)
        suspects |= {shard for shard, generation in commits if num_parts[shard] > 1 or generation < highest[shard]}
    return sorted(suspects)


def _commit_of(name: str) -> tuple[int, int] | None:
    match = PART_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def remove_run(location: RunLocation) -> None:
    """Delete every file of the run at `location`; do nothing if there is none. No driver may be working on it.

    Raises:
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    if "://" not in location.root:
        with storage_errors("delete", location.root):
            shutil.rmtree(location.root, ignore_errors=not Path(location.root).exists())
        return
    # Receipts first: if this stops halfway, no reader takes the rest for a run.
    plans = (PLAN_FOLDER, f"{PLAN_FOLDER}/g0001")
    folders = (RECEIPTS_FOLDER, "", *SCHEMAS, *plans, MANIFEST_FOLDER, ATTEMPTS_FOLDER, LOCK_FOLDER)
    for folder in folders:
        for file in list(location.list(folder)):
            location.delete(f"{folder}/{file.name}" if folder else file.name)
    for upload in abandoned_uploads(location):
        location.abort_upload(upload)
