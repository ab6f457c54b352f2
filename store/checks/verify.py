"""Verifies, from the output alone, that each planned image is accounted for exactly once and no file is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.run_records import PlanEntry, Receipt, RunHeader
from pseudoris.store.checks.content import Problem
from pseudoris.store.checks.records import exclusion_problems, refuse_blocked_extensions
from pseudoris.store.checks.shard_parts import verify_shard
from pseudoris.store.checks.verify_walk import OutsideBytes, VerifyReport, VerifyWalk
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import iter_plan_part, shards_of_parts
from pseudoris.store.runs.receipts import AT_ONCE, list_receipts, spread_evenly, try_read_receipts
from pseudoris.store.tables.keep_rule import SOME_TAU, rule_of

__all__ = ["OutsideBytes", "Problem", "VerifyReport", "verify_run", "verify_shard"]

# Most planned images to hold while the receipts of their shards are read; half a kilobyte each.
_IMAGES_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class ShardToCheck:
    """A committed shard to check: its latest receipt, its plan entries by position, and the run's keep rule.

    Entries are None if their part of the plan is lost.
    """

    receipt: Receipt
    entries: list[PlanEntry] | None
    rule: KeepRule = SOME_TAU


# A planned shard and its entries by position; None if their part of the plan cannot be used.
_Planned = tuple[int, list[PlanEntry] | None]
# Checks shards, here or on a cluster: yields the problems of each, in any order, and takes more when it has room.
CheckShards = Callable[[RunLocation, Iterator[ShardToCheck], bool], Iterator[list[Problem]]]


def check_shards(location: RunLocation, shards: Iterator[ShardToCheck], quick: bool) -> Iterator[list[Problem]]:
    """Yield the problems of each shard, checked one by one in this process. Raises as `verify_shard`."""
    for shard in shards:
        yield verify_shard(location, shard.receipt, shard.entries, quick=quick, rule=shard.rule)


def verify_run(
    location: RunLocation,
    *,
    quick: bool = False,
    sample: int | None = None,
    root: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: CheckShards = check_shards,
) -> VerifyReport:
    """Verify a whole run: header, plan, receipts, manifests, and the parts of all shards or of `sample` shards.

    Args:
        location: The run's folder.
        quick: As for `verify_shard`. The folders are not searched for unexpected files either.
        sample: Number of committed shards to check, spread evenly; None checks all, 0 checks none.
        root: The root digest that the run must have; another one is a problem.
        progress: Called after each planned shard with the number done and the total.
        check: Checks the parts; `pseudoris.pipeline.verify_tasks` has one for a cluster.

    Raises:
        ConfigError: No run was started there, or its header cannot be used.
        TransientError: Storage failed.
    """
    header = require_header(location)
    refuse_blocked_extensions(location)
    committed = list_receipts(location)
    walk = VerifyWalk(location, header, committed, chosen=spread_evenly(list(committed), sample))
    walk.add(exclusion_problems(location, header))
    for problems in check(location, _visited(walk, location, header, progress), quick):
        walk.add(problems)
    return walk.report(root, () if quick else walk.strays(), () if quick else walk.junk())


def _visited(
    walk: VerifyWalk, location: RunLocation, header: RunHeader, progress: Callable[[int, int], None] | None
) -> Iterator[ShardToCheck]:
    """Lead `walk` through the plan, and yield the shards to check."""
    rule = rule_of(header)
    for planned in _batches(_planned(walk, location, header)):
        commits = walk.take([shard for shard, _ in planned])
        found = dict(zip(commits, try_read_receipts(location, commits.items()), strict=True))
        for shard, entries in planned:
            receipt = walk.visit(shard, entries, found.pop(shard, None))
            if receipt is not None:
                yield ShardToCheck(receipt, entries, rule)
            if progress is not None:
                progress(walk.num_shards, header.num_shards)


def _planned(walk: VerifyWalk, location: RunLocation, header: RunHeader) -> Iterator[_Planned]:
    """Yield each planned shard with its entries, or with None if their part of the plan cannot be used."""
    for record, shards in shards_of_parts(header):
        try:
            yield from iter_plan_part(location, record)
        except ConfigError as error:
            walk.lose_plan(error)
            yield from ((shard, None) for shard in shards)


def _batches(planned: Iterable[_Planned]) -> Iterator[list[_Planned]]:
    """Yield planned shards in batches whose receipts are read in parallel."""
    batch: list[_Planned] = []
    num_images = 0
    for shard, entries in planned:
        batch.append((shard, entries))
        num_images += len(entries or ())
        if len(batch) == AT_ONCE or num_images >= _IMAGES_AT_ONCE:
            yield batch
            batch, num_images = [], 0
    if batch:
        yield batch
