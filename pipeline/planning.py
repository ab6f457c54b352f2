"""From a listing to the frozen plan, and the header that names it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.config import RunConfig
from schemas.config_loading import config_hash
from schemas.run import Identity, RunHeader
from store.header import create_header
from store.location import RunLocation
from store.plan import write_plan
from store.sharding import PlanTally, assign_shards
from store.sources.items import SourceItem


def plan_run(
    location: RunLocation,
    items: Iterable[SourceItem],
    *,
    source: str,
    identity: Identity,
    config: RunConfig,
    limit: int | None = None,
) -> RunHeader:
    """Freeze the listing under `location`, then create the header, and return it.

    Killed at any point before the header stands, the next start lists and plans anew. Where another
    driver's header wins the race, that one is returned.

    Args:
        location: Of a run without a header.
        items: The listing.
        source: SOURCE as given, for the header.
        identity: For the header.
        config: For the header; its `shards` bound the shards.
        limit: Plan the first so many images only.

    Raises:
        ConfigError: The listing ends in one, or the location cannot be written.
        TransientError: Storage failed.
    """
    tally = PlanTally()
    entries = itertools.islice(assign_shards(items, config.shards, tally=tally), limit)
    written = write_plan(location, entries)
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
    )
    return create_header(location, header)
