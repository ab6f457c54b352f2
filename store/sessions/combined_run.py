"""`combine` makes one run of several, or of one, without models or images. Called by `cli`, `pseudoris` and users.

Every value stays, bit for bit; of several runs keys and ids are new. A run of one parent, of which nothing changes,
has its parts. The header names the parents, with their root digests, and holds the settings of each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pseudoris.files.key_order import key_prefix
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.run_records import Identity, RunHeader, ShardCounts
from pseudoris.store.runs.combination import Combination
from pseudoris.store.runs.copied_pictures import CopyCounts, Unique
from pseudoris.store.runs.held_out_pictures import HoldOut
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.parents import DerivedShard
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import RunRequest, package_versions
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.store.sessions.thread_executor import DEFAULT_THREADS, OnProgress, derive_run
from pseudoris.store.tables.kept_clauses import KeptClause, kept_clauses
from pseudoris.store.tables.renamed_images import renamed, with_splits
from pseudoris.store.tables.shard_tables import table_bytes, table_counts

logger = logging.getLogger(__name__)

# These packages write the tables; what computed them is in the identity of each parent.
_WRITERS: Final = ("pseudoris", "pyarrow")


@dataclass(frozen=True, slots=True)
class CombineSummary:
    """The result of `combine`; the new run is complete.

    Attributes:
        out: Path or url of the new run's folder.
        images: Images by the name of the run that they are from.
        clauses: What it keeps, of each run's expressions by that run's rule.
        num_shards_before: Shards that an earlier call committed.
        totals: Sums over all of its shards.
        copies: How many of its images are copies of others.
        num_left_out: Images that are copies of others, or alike to images of two splits, and were not taken.
        splits: Images by split, "" for those in none; empty if the run has no splits.
        notes: What the user should know, a sentence each.
    """

    out: str
    images: Mapping[str, int]
    clauses: tuple[KeptClause, ...]
    num_shards_before: int
    totals: RunTotals
    copies: CopyCounts | None
    num_left_out: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def combine(
    runs: Sequence[tuple[str, RunLocation]],
    target: RunLocation,
    *,
    is_partial: bool = False,
    unique: Unique | None = None,
    hold_out: HoldOut | None = None,
    moved: str | Mapping[str, str] | None = None,
    num_threads: int = DEFAULT_THREADS,
    allow_mixed: bool = False,
    is_repair: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    on_wait: Callable[[str], None] = logger.warning,
) -> CombineSummary:
    """Write the images of all `runs`, by name and place, as one run to `target`; or continue that.

    A name "" leaves the keys as they are. If it is killed, the same call continues; two processes may combine at once.
    With `is_partial` what is committed of an unfinished run is taken. With `unique` no copy of an earlier picture is:
    none of its bytes, or also none within a few bits of its perceptual hash; `_left_out.parquet` lists them. With
    `hold_out` each picture is in a split, and those that belong together are in one. `moved` says where the images are
    now, by name, for pictures that have to be read. `on_wait` is told who holds the new run, and of an edited data
    card.

    Raises:
        ConfigError: A run is unfinished, damaged, of PPT's pairs, or is in `target` or holds it; two runs of one name
            share a key; or the target holds another run, or one of other parents.
        TransientError: Storage failed; the same call continues.
    """
    source = Combination.open(runs, target, is_partial=is_partial, unique=unique, hold_out=hold_out, source=moved)
    for parent in source.parents:
        if any("recipe" in each.identity.method for each in (parent.header, *parent.header.runs)):
            raise ConfigError(
                f"{parent.location.root} holds pairs of PPT, of which rows of one text belong together: combine the "
                "runs that it was made from, and make the pairs anew"
            )
    headers = [each for parent in source.parents for each in parent.header.runs]
    config = source.header.runs[0].config
    is_embedded = any(parent.header.config.shards.embed_images for parent in source.parents)
    shards = config.shards.model_copy(update={"embed_images": is_embedded})
    placement = type(config.placement)(allow_mixed=allow_mixed, repair=is_repair, storage=config.placement.storage)
    config = config.model_copy(update={"shards": shards, "placement": placement})
    identity = Identity(
        method=source.method,
        weights={},
        device_kind="none",
        versions=package_versions(_WRITERS),
    )
    places = ", ".join(dict.fromkeys(each.source for each in headers))
    request = RunRequest("combine", places, identity, config)
    planned, written = derive_run(
        target,
        source,
        request,
        partial(_rewritten, target),
        num_workers=num_threads,
        on_progress=on_progress,
        on_wait=on_wait,
    )
    notes = [f"not byte-reproducible (accepted by --allow-mixed): {line}" for line in planned.mixed]
    if source.listed is None and (num_unknown := source.chosen[0].num_unknown):
        notes.append(_unknown(num_unknown))
    notes += [f"{place} has changed since: the new run has it as it was" for place in source.changed()]
    return CombineSummary(
        out=target.root,
        images=_images(planned.header, target),
        clauses=kept_clauses(planned.header),
        num_shards_before=written.num_shards_before,
        totals=written.totals,
        copies=written.copies,
        num_left_out=planned.header.left_out.rows if planned.header.left_out else 0,
        splits=planned.header.splits.images if planned.header.splits else {},
        notes=tuple(notes),
    )


def _unknown(num: int) -> str:
    whose, found = ("1 picture", "it is a near copy: it cannot be read where the run found it")
    if num != 1:
        whose, found = f"{num:,} pictures", "they are near copies: they cannot be read where the runs found them"
    return f"of {whose} it is unknown whether {found}; --source names another place, --plugin a decoder"


def _rewritten(
    target: RunLocation, header: RunHeader, shard: DerivedShard, contents: dict[str, bytes]
) -> tuple[Mapping[str, bytes], ShardCounts]:
    entries = read_shard_plan(target, header, shard.number)
    if not shard.name and shard.splits is None and len(entries) == shard.receipt.counts.images:
        return contents, shard.receipt.counts
    tables = shard.tables(contents)
    splits = tables if shard.splits is None else with_splits(tables, shard.splits)
    new = renamed(splits, entries, key_prefix(shard.name), where=str(shard))
    if all(new[name].equals(table) for name, table in tables.items()):
        return contents, shard.receipt.counts
    return {name: table_bytes(table) for name, table in new.items()}, ShardCounts(**table_counts(new))


def _images(header: RunHeader, location: RunLocation) -> dict[str, int]:
    # A run of which every picture is a copy has its row too.
    found = dict.fromkeys((run.name for run in header.runs), 0)
    for receipt in cached_receipts(location, header=header):
        found[header.of_shard(receipt.shard).name] += receipt.counts.images
    return found
