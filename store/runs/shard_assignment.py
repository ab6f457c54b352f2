"""Assigns the images of a listing to shards, once and by a pure rule, and freezes the plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pseudoris.schemas.config import RunConfig, ShardsConfig
from pseudoris.schemas.config_layers import config_hash
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import Identity, Origin, ParentRun, PlanEntry, RunHeader
from pseudoris.store.files.key_order import file_of
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import create_header
from pseudoris.store.runs.plan import write_plan
from pseudoris.store.runs.stored_exclusions import ExcludedItems, excluded_section, nothing_is_left
from pseudoris.store.runs.unexpected_files import refuse_unexpected_files
from pseudoris.store.sources.exclusions import Exclusions
from pseudoris.store.sources.items import SourceItem


@dataclass(slots=True)
class PlanTally:
    """Counts of `assign_shards`, up to the last row that it yielded.

    Attributes:
        num_images: Images planned.
        num_shards: Shards begun.
        num_repeated: Listed images whose key was already listed; they are not planned again.
        size_bytes: Sum of the expected sizes.
        max_shard_bytes: Largest such sum of one shard.
    """

    num_images: int = 0
    num_shards: int = 0
    num_repeated: int = 0
    size_bytes: int = 0
    max_shard_bytes: int = 0


def assign_shards(
    items: Iterable[SourceItem], config: ShardsConfig, *, tally: PlanTally | None = None
) -> Iterator[PlanEntry]:
    """Yield the plan's rows for `items`, in their order: shards numbered from 0, positions from 0 in each shard.

    A shard ends before the item that would exceed `max_images` or `max_bytes`, and where the `boundary` of the items
    changes. An item larger than `max_bytes` gets a shard of its own. Of several items with the same key, the first is
    planned and the others are counted.

    Memory does not grow with the number of images. In a listing, a repeated file follows itself directly, and repeated
    members are in the same tar. So only the ids of one tar's members are held, about 70 bytes each.

    Args:
        items: The listing in the order of `Source.list`: by the key of the file that holds the image; in a table by
            row.
        config: The bounds of a shard.
        tally: Updated along the way.

    Raises:
        ValueError: The files are out of order, so repeated files could not be detected.
    """
    tally = PlanTally() if tally is None else tally
    seen = _Seen()
    filling = _Filling()
    for item in items:
        name = image_id(item.key)
        if seen.has_or_adds(item, name):
            tally.num_repeated += 1
            continue
        if tally.num_images == 0 or not filling.takes(item, config):
            tally.num_shards += 1
            filling = _Filling(boundary=item.boundary)
        entry = _entry(item, name, shard=tally.num_shards - 1, position=filling.num_images)
        # Count everything before the yield: a consumer that stops here has received this row.
        filling.num_images += 1
        filling.size_bytes += item.expected_bytes
        tally.num_images += 1
        tally.size_bytes += item.expected_bytes
        tally.max_shard_bytes = max(tally.max_shard_bytes, filling.size_bytes)
        yield entry


def plan_run(
    location: RunLocation,
    items: Iterable[SourceItem],
    *,
    source: str,
    identity: Identity,
    config: RunConfig,
    limit: int | None = None,
    origin: Origin = "annotate",
    parent: ParentRun | None = None,
    exclusions: Exclusions | None = None,
    domain: DomainRecord | None = None,
) -> RunHeader:
    """Write the listing as the plan under `location`, then create the header, and return it.

    If this is killed before the header exists, the next session lists and plans again. If another driver creates the
    header first, that header is returned.

    Args:
        location: The folder of a run without a header.
        items: The listing.
        source: SOURCE as given, for the header.
        identity: For the header.
        config: For the header; its `shards` bound the shards.
        limit: Plan only the first `limit` images.
        origin: The command that writes the tables, for the header.
        parent: The run that this one is made from, for the header; None if there is none.
        exclusions: Images that are not planned, or quarantined when they are read; they are stored beside the plan.
        domain: What a sample of SOURCE said, for the header; None if it was not asked.

    Raises:
        ConfigError: The listing raises it, the location cannot be written, its table folders hold files, or every
            image is excluded.
        TransientError: Storage failed.
    """
    refuse_unexpected_files(location)
    tally = PlanTally()
    exclusions = exclusions or Exclusions()
    excluded = ExcludedItems(exclusions)
    entries = itertools.islice(assign_shards(excluded.kept(items), config.shards, tally=tally), limit)
    written = write_plan(location, entries)
    if excluded.total and not written.num_images:
        raise nothing_is_left(exclusions, excluded)
    header = RunHeader(
        source=source,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        plan_parts=written.parts,
        num_images=written.num_images,
        num_repeated=tally.num_repeated,
        num_shards=written.num_shards,
        max_shard_bytes=tally.max_shard_bytes,
        identity=identity,
        config=config,
        config_sha256=config_hash(config),
        origin=origin,
        parent=parent,
        exclusions=excluded_section(location, exclusions, excluded),
        domain=domain,
    )
    return create_header(location, header)


class _Seen:
    """The items of the file that is being listed."""

    def __init__(self) -> None:
        self._file: str | None = None
        self._last_row = -1
        self._ids: set[int] = set()

    def has_or_adds(self, item: SourceItem, name: str) -> bool:
        """Return whether the item was listed before, and remember it."""
        file = file_of(item.key)
        if file != self._file:
            if self._file is not None and file < self._file:
                raise ValueError(f"the listing is out of order: {file!r} comes after {self._file!r}")
            self._file, self._last_row, self._ids = file, -1, set()
        if item.row is not None:
            is_repeated = item.row <= self._last_row
            self._last_row = max(item.row, self._last_row)
            return is_repeated
        number = int(name, 16)
        is_repeated = number in self._ids
        self._ids.add(number)
        return is_repeated


@dataclass(slots=True)
class _Filling:
    """The shard that is being filled."""

    boundary: str | None = None
    num_images: int = 0
    size_bytes: int = 0

    def takes(self, item: SourceItem, config: ShardsConfig) -> bool:
        size_bytes = self.size_bytes + item.expected_bytes
        fits = self.num_images < config.max_images and size_bytes <= config.max_bytes
        return fits and item.boundary == self.boundary


def _entry(item: SourceItem, name: str, *, shard: int, position: int) -> PlanEntry:
    return PlanEntry(
        shard=shard,
        position=position,
        image_id=name,
        key=item.key,
        size_bytes=item.size_bytes,
        etag=item.etag,
        mtime_ns=item.mtime_ns,
        offset_bytes=item.offset_bytes,
        row_group=item.row_group,
        row=item.row,
    )
