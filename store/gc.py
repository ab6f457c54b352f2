"""What may be deleted from a run: parts that lost, superseded generations, and what killed writers left.

Nothing of a shard without a receipt is touched, so this is safe at any time, beside a run, without a lock.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.run import MANIFEST_FOLDER, PLAN_FOLDER, RECEIPTS_FOLDER, Receipt, RunHeader
from schemas.tables import SCHEMAS
from store.header import read_header
from store.location import RunLocation
from store.lock import LOCK_FOLDER
from store.receipts import list_receipts, read_receipts

# No write of one file takes this long; a younger temporary file may belong to a living writer.
TEMPORARY_AGE_S: Final = 3_600.0

_PART_NAME: Final = re.compile(r"^shard-(\d{8,})\.g(\d+)-[0-9a-f]{8}\.parquet$")


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was deleted: paths relative to the run, and the bytes that parts among them held."""

    deleted: tuple[str, ...]
    freed_bytes: int


def plan_gc(parts: Mapping[str, Iterable[str]], standing: Mapping[int, Receipt]) -> list[str]:
    """Return the paths of the parts that no reader will ever want.

    Args:
        parts: File names by table. Names that are not a part's are left alone.
        standing: The highest receipt by shard; a shard that is not in it keeps everything, and so does
            a generation above its standing one: both may be in the making.
    """
    doomed = []
    for table, names in parts.items():
        for name in names:
            commit = _commit_of(name)
            receipt = standing.get(commit[0]) if commit else None
            if commit is None or receipt is None:
                continue
            is_superseded = commit[1] < receipt.generation
            has_lost = commit[1] == receipt.generation and name != receipt.parts[table].name
            if is_superseded or has_lost:
                doomed.append(f"{table}/{name}")
    return doomed


def run_gc(location: RunLocation, *, temporary_age_s: float = TEMPORARY_AGE_S, now_s: float | None = None) -> GcReport:
    """Delete what `plan_gc` names, and temporary files older than `temporary_age_s`; return what went.

    Args:
        location: Where the run lives.
        temporary_age_s: By the file system's clock.
        now_s: Seconds since the epoch; the present by default.

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
    limit_s = (time.time() if now_s is None else now_s) - temporary_age_s
    leftovers = [
        f"{folder}/{name}" if folder else name
        for folder in _folders(read_header(location))
        for name, modified_s in location.list_temporary(folder)
        if modified_s < limit_s
    ]
    for path in (*doomed, *leftovers):
        location.delete(path)
    return GcReport((*doomed, *leftovers), freed)


def _suspects(parts: Mapping[str, Iterable[str]], highest: Mapping[int, int]) -> list[int]:
    """Return the committed shards with more than their one part in a table: only their receipts are worth reading."""
    suspects: set[int] = set()
    for names in parts.values():
        commits = [commit for commit in map(_commit_of, names) if commit and commit[0] in highest]
        num_parts = Counter(shard for shard, _ in commits)
        suspects |= {shard for shard, generation in commits if num_parts[shard] > 1 or generation < highest[shard]}
    return sorted(suspects)


def _commit_of(name: str) -> tuple[int, int] | None:
    match = _PART_NAME.match(name)
    return (int(match[1]), int(match[2])) if match else None


def _folders(header: RunHeader | None) -> Sequence[str]:
    plans = {part.name.partition("/")[0] for part in header.plan_parts} if header else {"g0001"}
    return (
        "",
        LOCK_FOLDER,
        RECEIPTS_FOLDER,
        MANIFEST_FOLDER,
        *(f"{PLAN_FOLDER}/{name}" for name in sorted(plans)),
        *SCHEMAS,
    )
