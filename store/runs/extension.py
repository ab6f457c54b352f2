"""`--extend`: lists SOURCE again and plans its new images as another generation of the plan.

Called by `planned_run.py` and `pipeline`. The listing and each generation of the plan must have the same order, so that
they are merged as streams: memory holds one shard of each generation, the images of two tars, and about 70 bytes per
new image. It does not grow with the known images.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any, Final

from pseudoris.files.key_order import file_of
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.run_records import PartRecord, PlanEntry, PlanExtension, RunHeader
from pseudoris.store.runs.header import create_extension
from pseudoris.store.runs.plan import PlanTally, assign_shards, stream_plan, write_plan
from pseudoris.store.runs.stored_exclusions import ExcludedItems, stored_exclusions
from pseudoris.store.sources.items import SourceItem

_MAX_EXAMPLES: Final = 5

# An image is unchanged if these fields are equal. In a changed tar, a member of the same name may have another offset.
_version: Final = attrgetter("etag", "size_bytes", "mtime_ns", "offset_bytes", "row_group")
# A place in a listing is the key of an image's file, and the image's row in a table (-1 outside of tables).
_Place = tuple[str, int]
_PLAN, _LISTING = "the plan", "the listing"


@dataclass(slots=True)
class ExtensionTally(PlanTally):
    """The result of a second listing: counts of the new images, and these; complete when it was read to its end.

    Attributes:
        num_known: Listed images that were planned before and have not changed.
        num_changed: Listed images that were planned before with another etag, size or time. They stay as planned.
        changed: Some keys of these.
        num_vanished: Planned images that are no longer listed. They stay planned.
        vanished: Some keys of these.
        excluded: Counts the listed images that the run's rules by name exclude.
    """

    num_known: int = 0
    num_changed: int = 0
    changed: list[str] = field(default_factory=list)
    num_vanished: int = 0
    vanished: list[str] = field(default_factory=list)
    excluded: ExcludedItems = field(default_factory=lambda: ExcludedItems(()))


def extend_plan(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], *, limit: int | None = None
) -> tuple[RunHeader, ExtensionTally]:
    """Plan the `items` of SOURCE that `header` does not have, and return the header with this extension.

    If it is killed before it writes the extension's header, nothing has changed, and the next call lists again. If
    there are no new images, nothing is written. With a `limit` only so many are planned; the listing is still read to
    its end. ConfigError if the order of the listing differs from the plan's.
    """
    tally = ExtensionTally()
    generation = 1 + max(_generation(part) for part in header.plan_parts)
    entries = new_entries(location, header, items, tally=tally, limit=limit)
    parts = write_plan(location, entries, generation=generation)
    if not parts:
        return header, tally
    extension = PlanExtension(
        number=generation,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        plan_parts=parts,
        num_images=tally.num_images,
        num_repeated=tally.num_repeated,
        num_shards=tally.num_shards,
        max_shard_bytes=tally.max_shard_bytes,
        header_sha256=header.digest,
        exclusions=tally.excluded.counts().model_dump(mode="json") if tally.excluded.num_excluded else None,
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
    """Yield the plan's rows for the items whose keys `header` does not plan, in shards numbered after its own.

    The run's exclusions hold for them. `tally` is complete when the iterator ends; only the first `limit` rows are
    yielded.
    """
    tally.excluded = ExcludedItems(stored_exclusions(location, header))
    unplanned = _unplanned_items(location, header, tally.excluded.kept(items), tally)
    for entry in assign_shards(itertools.islice(unplanned, limit), header.config.shards, tally=tally):
        yield replace(entry, shard=header.num_shards + entry.shard)
    # The rest is read too: new items are beyond the limit, but planned keys must be compared with the plan.
    for _ in unplanned:
        pass


def _unplanned_items(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem], tally: ExtensionTally
) -> Iterator[SourceItem]:
    """Yield the items whose keys `header` does not plan, in their order; `tally` counts the others."""
    for known, listed in beside_plan(location, header, items):
        vanished = dict(known)
        for item in listed:
            if item.key not in known:
                yield item
            elif vanished.pop(item.key, None) is not None:
                if _version(item) == _version(known[item.key]):
                    tally.num_known += 1
                else:
                    tally.num_changed += 1
                    tally.changed += [item.key] if len(tally.changed) < _MAX_EXAMPLES else []
        tally.num_vanished += len(vanished)
        tally.vanished += [*vanished][: _MAX_EXAMPLES - len(tally.vanished)]


def beside_plan(
    location: RunLocation, header: RunHeader, items: Iterable[SourceItem]
) -> Iterator[tuple[dict[str, PlanEntry], list[SourceItem]]]:
    """Yield the planned images by key, of all generations, and the listed ones, those of one file together.

    ConfigError if the order of the listing differs from the plan's.
    """
    generations = itertools.groupby(header.plan_parts, key=_generation)
    # `stream_plan` is used, because `iter_plan` would hold a whole part of each generation in memory: 100 MB.
    shards = (stream_plan(location, tuple(parts)) for _, parts in generations)
    streams = [itertools.chain.from_iterable(entries for _, entries in each) for each in shards]
    planned = _grouped(heapq.merge(*streams, key=_place), _PLAN)
    both = heapq.merge(planned, _grouped(items, _LISTING), key=itemgetter(0))
    for _, sides in itertools.groupby(both, key=itemgetter(0)):
        found: dict[str, list[Any]] = {what: images for _, what, images in sides}
        yield {entry.key: entry for entry in found.get(_PLAN, ())}, found.get(_LISTING, [])


def _grouped(images: Iterable[SourceItem | PlanEntry], what: str) -> Iterator[tuple[_Place, str, list[Any]]]:
    """Yield the images of each place together: one image, except for tar members and repeated listings."""
    last: _Place | None = None
    for place, group in itertools.groupby(images, key=_place):
        if last is not None and place < last:
            # If two different orders were merged, a known key could be planned a second time.
            raise ConfigError(
                f"cannot compare SOURCE with the plan: {what} is not in the order of keys ({place[0]} is after "
                f"{last[0]}). Another version of pseudoris may have listed it. Name another output"
            )
        last = place
        yield place, what, list(group)


def _place(image: SourceItem | PlanEntry) -> _Place:
    return file_of(image.key), -1 if image.row is None else image.row


def _generation(part: PartRecord) -> int:
    return int(part.name.partition("/")[0][1:])


def extension_notices(tally: ExtensionTally) -> list[str]:
    """Return what the user should know about a second listing, one sentence each."""
    repeated = f"; {tally.num_repeated:,} repeated listings counted once" if tally.num_repeated else ""
    texts = [
        f"SOURCE has {tally.num_images:,} new images, planned in {tally.num_shards:,} new shards{repeated}"
        if tally.num_images
        else "SOURCE has no new images: the plan is unchanged"
    ]
    if tally.excluded.total:
        texts.append(f"{tally.excluded.total:,} of the listed images are excluded, as the run was planned")
    if tally.num_changed:
        texts.append(
            f"{tally.num_changed:,} planned images have changed since they were planned ({_some(tally.changed)}). The "
            "plan stays as it is: those not annotated yet will be quarantined as changed. To annotate the changed "
            "images, name another output"
        )
    if tally.num_vanished:
        texts.append(
            f"{tally.num_vanished:,} planned images are no longer listed ({_some(tally.vanished)}): "
            "those not annotated yet will be quarantined as missing"
        )
    return texts


def _some(keys: list[str]) -> str:
    return ", ".join([*keys[:3], "…"] if len(keys) > 3 else keys)
