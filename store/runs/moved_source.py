"""SOURCE that has moved: proves that its new place has the planned images, and plans them with their versions there.

Called by `planned_run` and `pipeline`. Keys are relative to SOURCE, so ids and shards stay, but a renamed folder or
bucket has other times and etags. The run's header and plan stay too: the workers of a session read a copy of the plan,
`_plan/m0001/…`, which the end of a session deletes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PartRecord, PlanEntry, RunHeader
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.commit import NOT_READ
from pseudoris.store.runs.extension import beside_plan
from pseudoris.store.runs.header import is_same_source, planned_source
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.plan import MOVED, read_shard_plan, remove_moved, shards_of_parts, write_plan
from pseudoris.store.runs.receipts import list_receipts, spread_evenly
from pseudoris.store.sources import Source, SourceItem
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.source import absolute_source
from pseudoris.store.tables.open_run import CommittedShard, OpenRun

# At most this many images of committed shards are read.
_MAX_READ: Final = 100
# About this many rows of the plan are held until they are written, 50 MB.
_ROWS_HELD: Final = 100_000
# Where the bytes of an image are, besides its key. A tar that was packed anew has its members elsewhere.
_extent: Final = attrgetter("size_bytes", "offset_bytes", "row_group")


def moved_plan(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], *, source: Source, config: RunConfig
) -> RunHeader:
    """Write the `moved_entries`; return `header` with them as its plan. If it raises, nothing that it wrote stays."""
    firsts: dict[str, int] = {}
    for part, shards in shards_of_parts(header):
        firsts.setdefault(part.name.partition("/")[0], shards.start)
    # The entries of each generation have the order of its shards; those of several generations alternate.
    starts, held = [*firsts.values()], [list[PlanEntry]() for _ in firsts]
    parts: list[PartRecord] = []

    def write(*, is_end: bool) -> None:
        for generation, rows in enumerate(held, 1):
            # More images of the last shard may come.
            end = len(rows) if is_end or not rows else [row.shard for row in rows].index(rows[-1].shard)
            parts.extend(write_plan(location, rows[:end], generation, letter=MOVED))
            del rows[:end]

    try:
        for num, entry in enumerate(moved_entries(location, header, items, source, config), 1):
            held[bisect_right(starts, entry.shard) - 1].append(entry)
            if num % _ROWS_HELD == 0:
                write(is_end=False)
        write(is_end=True)
    except BaseException:
        remove_moved(location)
        raise
    return header.model_copy(update={"plan_parts": tuple(sorted(parts, key=attrgetter("name")))})


def checked_move(header: RunHeader, given: str) -> str:
    """Return the SOURCE of the run if `given`, of `--moved-from`, is its name; else raise ConfigError."""
    if is_same_source(header, planned_source(header, absolute_source(given))):
        return header.source
    place = without_secrets(header.source)
    raise ConfigError(f"--moved-from {without_secrets(given)!r} is not where the run was planned from: give {place!r}")


def moved_entries(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], source: Source, config: RunConfig
) -> Iterator[PlanEntry]:
    """Yield the planned images in the order of `items`, the listing of `source`, with their etags and times in it.

    Images that the plan lacks are passed over.

    Raises:
        ConfigError: At the end. A planned image is not listed, or with another size or place in its file; one that a
            committed shard could not read may be. Or one of up to 100 images of committed shards has other bytes.
    """
    num_lost, first = 0, ""
    unread: set[str] | None = None
    for known, listed in beside_plan(location, header, items):
        # Of a key that is listed twice, the first image is planned.
        found = {item.key: item for item in reversed(listed)}
        for key, entry in known.items():
            item = found.get(key)
            if item is not None and _extent(item) == _extent(entry):
                yield replace(entry, etag=item.etag, mtime_ns=item.mtime_ns)
                continue
            if unread is None:
                unread = {each.key for each in OpenRun.at(location).quarantined() if each.reason in NOT_READ}
            if key in unread:
                yield entry
                continue
            first = first or f"{key} {'is missing' if item is None else 'has another size or place in its file'}"
            num_lost += 1
    if num_lost:
        raise _other(source, f"{num_lost:,} of {header.num_images:,} planned images differ, the first: {first}")
    _check_bytes(location, header, source, config)


def _check_bytes(location: RunLocation, header: RunHeader, source: Source, config: RunConfig) -> None:
    """Read some images of the committed shards, spread over them; ConfigError if one has another sha256 now."""
    commits = list_receipts(location)
    chosen = sorted(spread_evenly([*commits], _MAX_READ))
    for receipt in cached_receipts(location, commits=[(shard, commits[shard]) for shard in chosen], header=header):
        try:
            rows = CommittedShard(location, receipt).table(IMAGES, ("key", "sha256")).to_pylist()
        except ConfigError:
            # A repair writes a damaged part again, and then its bytes prove the images.
            if not config.placement.repair:
                raise
            continue
        digests = {row["key"]: row["sha256"] for row in rows if row["sha256"] is not None}
        planned = [each for each in read_shard_plan(location, header, receipt.shard) if each.key in digests]
        some = [planned[place] for place in sorted(spread_evenly(range(len(planned)), _MAX_READ // len(chosen)))]
        keys = {entry.position: entry.key for entry in some}
        unbound = [replace(entry, etag=None, mtime_ns=None) for entry in some]
        for position, outcome in read_entries(source.root, unbound, config):
            if not isinstance(outcome, bytes):
                raise _other(source, f"{keys[position]} cannot be read ({outcome})")
            if sha256_hex(outcome) != digests[keys[position]]:
                raise _other(source, f"{keys[position]} has not the sha256 of the table images")


def _other(source: Source, found: str) -> ConfigError:
    return ConfigError(
        f"{without_secrets(source.name)!r} does not hold the images of this run: {found}. Name the place that they "
        "were moved to"
    )
