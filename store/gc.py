"""What may be deleted from a run: parts that lost, superseded generations, and what killed writers left.

Nothing of a shard without a receipt is touched, so this is safe at any time, beside a run, without a lock. The
parts are listed before the receipts: whatever is deleted stood there before the receipt that dooms it was seen.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.errors import ConfigError, TransientError
from schemas.ids import PART_NAME
from schemas.run import HEADER_NAME, MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER, Receipt, RunHeader
from schemas.tables import SCHEMAS
from store.attempts import ATTEMPTS_FOLDER, attempts_of
from store.header import read_header
from store.location import PROBE_NAME, RunLocation
from store.lock import LOCK_FOLDER
from store.receipts import list_receipts, read_receipts
from store.s3_answers import Upload

logger = logging.getLogger(__name__)

# No write of one file takes this long; a younger temporary file may belong to a living writer.
TEMPORARY_AGE_S: Final = 3_600.0

# SOURCE may lie below the run's prefix too, and whoever fills it is not to lose an upload.
_RUN_FILE: Final = re.compile(
    rf"({'|'.join(SCHEMAS)})/{PART_NAME.pattern}"
    rf"|({PLAN_FOLDER}|{RECEIPTS_FOLDER}|{MANIFEST_FOLDER})/.+|{re.escape(HEADER_NAME)}"
)


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was deleted, or would be: paths relative to the run, and the bytes that parts among them held.

    Attributes:
        lost: Parts of a generation whose receipt names others.
        superseded: Parts below the standing generation.
        abandoned: Temporary files of killed writers, probes of killed starts, and records of attempts that a commit
            has made void.
        freed_bytes: Of the parts.
        num_uploads: Multipart uploads of the run's own files that were begun, never ended, and have been given up.
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


def plan_gc(parts: Mapping[str, Iterable[str]], standing: Mapping[int, Receipt]) -> list[str]:
    """Return the paths of the parts that no reader will ever want.

    Args:
        parts: File names by table. Names that are not a part's are left alone.
        standing: The highest receipt by shard; a shard that is not in it keeps everything, and so does
            a generation above its standing one: both may be in the making.
    """
    doomed = []
    for table, listed in parts.items():
        names = set(listed)
        for name in sorted(names):
            commit = _commit_of(name)
            receipt = standing.get(commit[0]) if commit else None
            # Where the named part is lost, or its receipt edited, the others may be all that is left.
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
    """Delete what `plan_gc` names, and temporary files and uploads older than `temporary_age_s`; return what went.

    Args:
        location: Where the run lives.
        is_dry: Only return what would go.
        temporary_age_s: By the storage's clock.
        now_s: Seconds since the epoch; the present by default, by the storage's clock. A dry run, which writes nothing,
            takes this machine's.

    Raises:
        ConfigError: A receipt cannot be used, or the location cannot be written.
        TransientError: Storage failed.
    """
    sizes = {table: {file.name: file.size_bytes for file in location.list(table)} for table in SCHEMAS}
    highest = list_receipts(location)
    suspects = _suspects(sizes, highest)
    standing = {each.shard: each for each in read_receipts(location, ((s, highest[s]) for s in suspects))}
    doomed = plan_gc(sizes, standing)
    freed = sum(sizes[path.partition("/")[0]][path.partition("/")[2]] for path in doomed)
    unfinished, uploads = list(_unfinished(location)), abandoned_uploads(location)
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


def _unfinished(location: RunLocation) -> Iterator[tuple[str, float]]:
    """Yield path and time (epoch seconds) of what is there for a moment only, while its writer lives."""
    for folder in _folders(read_header(location)):
        for name, modified_s in location.list_temporary(folder):
            yield f"{folder}/{name}" if folder else name, modified_s
    for file in location.list(""):
        if PROBE_NAME.fullmatch(file.name):
            yield file.name, file.modified_s


def abandoned_uploads(location: RunLocation) -> list[Upload]:
    """Return the uploads of the run's files that were begun, and not ended; never those of others below its prefix.

    None, and a warning, where they cannot be listed: that is a right of its own (s3:ListBucketMultipartUploads), some
    stores do not know the request, and a run must not hang on it.
    """
    try:
        return list(location.list_uploads(_RUN_FILE))
    except (ConfigError, TransientError) as error:
        logger.warning("abandoned uploads stay, for they cannot be listed (s3:ListBucketMultipartUploads): %s", error)
        return []


def _is_superseded(path: str, highest: Mapping[int, int]) -> bool:
    commit = _commit_of(path.rpartition("/")[2])
    return commit is not None and commit[1] < highest[commit[0]]


def _suspects(parts: Mapping[str, Iterable[str]], highest: Mapping[int, int]) -> list[int]:
    """Return the committed shards with more than their one part in a table: only their receipts are worth reading."""
    suspects: set[int] = set()
    for names in parts.values():
        commits = [commit for commit in map(_commit_of, names) if commit and commit[0] in highest]
        num_parts = Counter(shard for shard, _ in commits)
        suspects |= {shard for shard, generation in commits if num_parts[shard] > 1 or generation < highest[shard]}
    return sorted(suspects)


def _commit_of(name: str) -> tuple[int, int] | None:
    match = PART_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def _folders(header: RunHeader | None) -> Sequence[str]:
    plans = {part.name.partition("/")[0] for part in header.plan_parts} if header else {"g0001"}
    return (
        "",
        ATTEMPTS_FOLDER,
        LOCK_FOLDER,
        RECEIPTS_FOLDER,
        MANIFEST_FOLDER,
        PLAN_FOLDER,
        *(f"{PLAN_FOLDER}/{name}" for name in sorted(plans)),
        *SCHEMAS,
    )
