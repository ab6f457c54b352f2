"""`--extend`: SOURCE listed again, what it has gained planned into another generation of the plan. No Ray.

The listing and each generation of the plan stand in one order, that of the listing. So they are merged as two streams:
memory holds a shard of each generation of the plan, the images of one tar, and some 70 bytes for each new image,
however many are known.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from schemas.config import ShardsConfig
from schemas.errors import ConfigError
from schemas.plan import PlanEntry
from schemas.run import PartRecord, PlanExtension, RunHeader
from store.header import create_extension
from store.location import RunLocation
from store.plan import stream_plan, write_plan
from store.planning import PlanTally, assign_shards
from store.sources.items import SourceItem
from store.sources.keys import file_of

_MAX_EXAMPLES: Final = 5

# Where an image stands in a listing: its file's key, its row in a table (-1 elsewhere).
_Place = tuple[str, int]
_Image = TypeVar("_Image", SourceItem, PlanEntry)


@dataclass(slots=True)
class ExtensionTally:
    """What a second listing has shown, once it was read to its end.

    Attributes:
        num_new: Images planned.
        num_shards: Shards that hold them.
        num_repeated: Listings of a new key that had been listed already.
        num_known: Listed images that were planned before and are what they were.
        num_changed: Listed images that were planned before with another etag, size or time: left alone.
        changed: Keys of some of them.
        num_vanished: Planned images that are not listed any more: left alone.
        vanished: Keys of some of them.
        size_bytes: Expected sizes of the new images.
        max_shard_bytes: Largest sum of one of their shards.
    """

    num_new: int = 0
    num_shards: int = 0
    num_repeated: int = 0
    num_known: int = 0
    num_changed: int = 0
    changed: list[str] = field(default_factory=list)
    num_vanished: int = 0
    vanished: list[str] = field(default_factory=list)
    size_bytes: int = 0
    max_shard_bytes: int = 0


def extend_plan(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], *, limit: int | None = None
) -> tuple[RunHeader, ExtensionTally]:
    """Plan what `items` hold and `header` does not, and return the header with it.

    Killed before the extension's header stands, it has changed nothing; the next one lists anew. Without anything new
    nothing is written.

    Args:
        location: Where the run lives.
        header: As it stands.
        items: SOURCE, listed again.
        limit: Plan the first so many new images only; the listing is read to its end all the same.

    Raises:
        ConfigError: The listing ends in one, its order is not the plan's, or the location cannot be written.
        TransientError: Storage failed.
    """
    tally = ExtensionTally()
    generation = 1 + max(_generation(part) for part in header.plan_parts)
    entries = new_entries(location, header, items, tally=tally, limit=limit)
    written = write_plan(location, entries, generation=generation)
    if not written.num_images:
        return header, tally
    extension = PlanExtension(
        number=generation,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        plan_parts=written.parts,
        num_images=written.num_images,
        num_repeated=tally.num_repeated,
        num_shards=written.num_shards,
        max_shard_bytes=tally.max_shard_bytes,
    )
    return create_extension(location, extension), tally


def new_entries(
    location: RunLocation,
    header: RunHeader,
    items: Iterable[SourceItem],
    *,
    tally: ExtensionTally,
    limit: int | None = None,
) -> Iterator[PlanEntry]:
    """Yield the plan's rows for the items whose keys `header` does not plan, in shards that follow its own.

    Args:
        location: Where the run lives.
        header: As it stands; its config bounds the shards.
        items: SOURCE, listed again.
        tally: Counts along, and is complete when the iterator has ended.
        limit: Yield the first so many only.
    """
    unplanned = unplanned_items(location, header, items, tally)
    wanted = itertools.islice(unplanned, limit)
    yield from _numbered(wanted, header.config.shards, first_shard=header.num_shards, tally=tally)
    # What is beyond the limit is not planned, but known keys after it are still compared.
    for _ in unplanned:
        pass


def unplanned_items(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], tally: ExtensionTally
) -> Iterator[SourceItem]:
    """Yield the items whose keys `header` does not plan, in their order; `tally` counts the others."""
    generations = itertools.groupby(header.plan_parts, key=_generation)
    streams = [_planned(location, tuple(parts)) for _, parts in generations]
    planned = _grouped(heapq.merge(*streams, key=_place), "the plan")
    listed = _grouped(items, "the listing")
    ours = next(planned, None)
    for place, found in listed:
        while ours is not None and ours[0] < place:
            _count_vanished(ours[1], tally)
            ours = next(planned, None)
        if ours is None or ours[0] > place:
            yield from found
            continue
        yield from _compare(found, ours[1], tally)
        ours = next(planned, None)
    while ours is not None:
        _count_vanished(ours[1], tally)
        ours = next(planned, None)


def _numbered(
    items: Iterable[SourceItem], config: ShardsConfig, *, first_shard: int, tally: ExtensionTally
) -> Iterator[PlanEntry]:
    plan = PlanTally()
    for entry in assign_shards(items, config, tally=plan):
        yield replace(entry, shard=first_shard + entry.shard)
        tally.num_new, tally.num_shards, tally.size_bytes = plan.num_images, plan.num_shards, plan.size_bytes
        tally.max_shard_bytes = plan.max_shard_bytes
    tally.num_repeated = plan.num_repeated


def _planned(location: RunLocation, parts: tuple[PartRecord, ...]) -> Iterator[PlanEntry]:
    # `iter_plan` holds a whole part, which would be 100 MB for every generation.
    for _, entries in stream_plan(location, parts):
        yield from entries


def _grouped(images: Iterable[_Image], what: str) -> Iterator[tuple[_Place, list[_Image]]]:
    """Yield the images of each place together: one, but for a tar's members and repeated listings."""
    last: _Place | None = None
    for place, group in itertools.groupby(images, key=_place):
        if last is not None and place < last:
            # Merged all the same, a known key would be planned a second time.
            raise ConfigError(
                f"{what} holds {place[0]} after {last[0]}, which is not the order of keys, so the two cannot be "
                "compared: another version of pseudoris may have listed them. Name another output"
            )
        last = place
        yield place, list(group)


def _place(image: SourceItem | PlanEntry) -> _Place:
    return file_of(image.key), -1 if image.row is None else image.row


def _compare(found: list[SourceItem], ours: list[PlanEntry], tally: ExtensionTally) -> Iterator[SourceItem]:
    """Yield what is new of one file; count its known, changed and vanished images."""
    known = {entry.key: entry for entry in ours}
    seen: set[str] = set()
    for item in found:
        entry = known.get(item.key)
        if entry is None:
            yield item
        elif item.key not in seen:
            seen.add(item.key)
            if _is_same(item, entry):
                tally.num_known += 1
            else:
                tally.num_changed += 1
                tally.changed += [item.key] if len(tally.changed) < _MAX_EXAMPLES else []
    _count_vanished([entry for entry in ours if entry.key not in seen], tally)


def _is_same(item: SourceItem, entry: PlanEntry) -> bool:
    # The offset as well: within one tar a name may have come to stand for other bytes of the same size.
    return (item.etag, item.size_bytes, item.mtime_ns, item.offset_bytes, item.row_group) == (
        *(entry.etag, entry.size_bytes, entry.mtime_ns, entry.offset_bytes),
        entry.row_group,
    )


def _count_vanished(entries: list[PlanEntry], tally: ExtensionTally) -> None:
    tally.num_vanished += len(entries)
    tally.vanished += [entry.key for entry in entries[: _MAX_EXAMPLES - len(tally.vanished)]]


def _generation(part: PartRecord) -> int:
    return int(part.name.partition("/")[0].removeprefix("g"))
