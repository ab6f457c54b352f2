"""`refilter`: another run out of the scores that a complete one has stored; no model, no image is looked at.

The plan is the parent's, byte for byte, and so are the tables of images, masks and failures; in the expressions table
the column `kept` is decided anew. Each shard is committed as any other: parts, then the receipt, created once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.config import RunConfig
from schemas.config_loading import config_hash, validate
from schemas.errors import ConfigError
from schemas.keeping import KeepCondition, KeepRule
from schemas.run import PLAN_FOLDER, Identity, ParentRun, Receipt, RunHeader
from schemas.shard import SOURCE_MODEL, Shard
from schemas.tables import EXPRESSIONS, EXPRESSIONS_SCHEMA, SCHEMAS
from store.commit import Provenance, commit_parts, make_receipt, part_path
from store.datacard import CardOutcome, write_datacard
from store.gc import run_gc
from store.header import check_identity, check_origin, create_header, read_header, require_header
from store.keeping import flags_of, judged, passes, rule_of
from store.location import RunLocation
from store.lock import RunLock
from store.manifest import cached_receipts, is_manifest_complete, write_manifest
from store.parents import check_parent, parent_part, parent_receipts, pin_parent
from store.reading import read_part
from store.receipts import list_receipts
from store.strangers import refuse_strangers
from store.tables import table_bytes
from store.threads import map_in_threads
from store.totals import RunTotals, Totals

ORIGIN: Final = "refilter"
# Each holds one shard's tables; with embedded images these are `shards.max_bytes` and more.
DEFAULT_THREADS: Final = 4
# What writes the new tables; all else of the identity is that of what computed the scores.
_WRITERS: Final = ("pseudoris", "pyarrow")

# Shards committed so far, shards in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What is to be kept from now on; what is None stays as the parent has it.

    Attributes:
        tau: Distinctiveness lies strictly above.
        keep: Conditions beside it; an empty sequence takes the parent's away.
    """

    tau: float | None = None
    keep: Sequence[KeepCondition] | None = None


@dataclass(frozen=True, slots=True)
class RefilterSummary:
    """How the new run stands; it is complete.

    Attributes:
        out: Where it lives.
        rule: What it keeps.
        num_kept_before: Expressions that the parent keeps.
        num_shards_before: Shards that an earlier start had committed.
        totals: Over all of its shards.
        accepted: Differences from the run's identity that `allow_mixed` accepted in this start.
        card: What became of its data card.
    """

    out: str
    rule: KeepRule
    num_kept_before: int
    num_shards_before: int
    totals: RunTotals
    accepted: tuple[str, ...]
    card: CardOutcome


def refilter(
    parent: RunLocation,
    target: RunLocation,
    change: RuleChange,
    *,
    num_threads: int = DEFAULT_THREADS,
    allow_mixed: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> RefilterSummary:
    """Write the run at `parent` once more at `target`, with another rule of what is kept; or go on with that.

    Killed at any time, the same call continues. The tables are those of a run that was annotated under the rule from
    the start, whatever happened, and whoever else does the same at the same time.

    Args:
        parent: A complete run; it is only read.
        target: An empty place, or one that an earlier call began with.
        change: The rule.
        num_threads: Shards worked on at once, each held in memory.
        allow_mixed: Go on with other versions of the packages that write than the run was begun with.
        on_progress: Called after each commit.

    Raises:
        ConfigError: The parent is not complete, the target holds another run, another parent's or another rule's, or
            nothing would change.
        TransientError: Storage failed; the same call continues.
    """
    _check_places(parent, target)
    source = require_header(parent)
    config = _changed(source.config, change)
    identity = _identity(source, config)
    target.probe()
    with RunLock.held(target) as lock:
        header, pinned = _begin_or_continue(parent, source, target, config, identity)
        accepted = tuple(check_identity(header, identity, allow_mixed=allow_mixed))
        done = list_receipts(target)
        on_progress(len(done), header.num_shards)
        commit = _Commit(parent, target, rule_of(header), accepted)
        lacking = (receipt for receipt in parent_receipts(parent, pinned) if receipt.shard not in done)
        for number, _ in enumerate(map_in_threads(commit, lacking, num_threads), start=len(done) + 1):
            on_progress(number, header.num_shards)
            lock.check()
        if len(done) < header.num_shards or not is_manifest_complete(target, done):
            # Garbage first: after the last manifest a glob over a table's folder is exact.
            run_gc(target)
            write_manifest(target)
        return RefilterSummary(
            out=target.root,
            rule=rule_of(header),
            num_kept_before=sum(receipt.counts.kept for receipt in parent_receipts(parent, pinned)),
            num_shards_before=len(done),
            totals=_totals(target),
            accepted=accepted,
            card=write_datacard(target),
        )


def refiltered(table: pa.Table, rule: KeepRule) -> pa.Table:
    """Return an expressions table with `kept` as `rule` has it, in the present schema; rows and order stay.

    A human's expressions, and those of several masks or none, stay as they are.
    """
    kept = np.where(judged(table), passes(rule, table), flags_of(table["kept"]))
    changed = {
        "kept": pa.array(kept, pa.bool_()),
        # Tables of version 1 do not say so: all of theirs were.
        "source": pc.fill_null(table["source"], SOURCE_MODEL),
    }
    return pa.table([changed.get(name, table[name]) for name in EXPRESSIONS_SCHEMA.names], schema=EXPRESSIONS_SCHEMA)


def writer_versions() -> dict[str, str]:
    """Return the versions of the packages that write tables here, by name."""
    found = {}
    for package in _WRITERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _begin_or_continue(
    parent: RunLocation, source: RunHeader, target: RunLocation, config: RunConfig, identity: Identity
) -> tuple[RunHeader, ParentRun]:
    header = read_header(target) or _create(parent, source, target, config, identity)
    check_origin(target, header, ORIGIN)
    if header.parent is None:
        raise ConfigError(f"{target.root} names no parent: its header was edited; name another output")
    check_parent(parent, source, header.parent)
    return header, header.parent


@dataclass(frozen=True, slots=True)
class _Commit:
    """Commits the shard of a receipt of the parent; returns the receipt that stands then."""

    parent: RunLocation
    target: RunLocation
    rule: KeepRule
    accepted: tuple[str, ...]

    def __call__(self, before: Receipt) -> Receipt:
        contents = {table: parent_part(self.parent, table, before.parts[table]) for table in SCHEMAS}
        name = self.parent.uri(part_path(EXPRESSIONS, before.parts[EXPRESSIONS]))
        table = refiltered(read_part(io.BytesIO(contents[EXPRESSIONS]), EXPRESSIONS_SCHEMA, name), self.rule)
        contents[EXPRESSIONS] = table_bytes(table)
        counts = before.counts.model_copy(update={"kept": int(flags_of(table["kept"]).sum())})
        # No seconds, no nodes: no stage has worked on it, and so equal commits have equal receipts.
        mixed = tuple(dict.fromkeys((*before.mixed, *self.accepted)))
        provenance = Provenance(degraded=before.degraded, mixed=mixed)
        receipt = make_receipt(Shard(before.shard, 0, ()), contents, counts, provenance)
        return commit_parts(self.target, contents, receipt).receipt


def _check_places(parent: RunLocation, target: RunLocation) -> None:
    if parent.holds(target) or target.holds(parent):
        raise ConfigError(
            f"the new run at {target.root} would lie in the one it is made from, {parent.root}, or around it: name "
            "another place"
        )


def _changed(config: RunConfig, change: RuleChange) -> RunConfig:
    before = config.filtering
    tau = before.tau if change.tau is None else change.tau
    keep = before.keep if change.keep is None else tuple(change.keep)
    tree = config.model_dump()
    tree["filtering"] |= {"tau": tau, "keep": keep}
    changed = validate(tree)
    if changed == config:
        raise ConfigError(
            f"the parent keeps {KeepRule(before.tau, before.keep)} already: give another --tau, or a --keep"
        )
    return changed


def _identity(source: RunHeader, config: RunConfig) -> Identity:
    before = source.identity
    method = {**before.method, "filtering": config.method()["filtering"]}
    return before.model_copy(update={"method": method, "versions": {**before.versions, **writer_versions()}})


def _create(
    parent: RunLocation, source: RunHeader, target: RunLocation, config: RunConfig, identity: Identity
) -> RunHeader:
    """Copy the plan, then create the header: killed before it stands, the next call begins anew."""
    refuse_strangers(target)
    pinned = pin_parent(parent, source)
    for part in source.plan_parts:
        target.put_part(f"{PLAN_FOLDER}/{part.name}", parent_part(parent, PLAN_FOLDER, part))
    header = source.model_copy(
        update={
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": identity,
            "config": config,
            "config_sha256": config_hash(config),
            "origin": ORIGIN,
            "parent": pinned,
        }
    )
    return create_header(target, header)


def _totals(location: RunLocation) -> RunTotals:
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    return totals.sum()
